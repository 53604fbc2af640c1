-- How an application learns that rows, from which it made something, are not what they were. Both functions are about
-- the company of the transaction (app.current_company_id); a login that is limited to companies hears of no others.

CREATE OR REPLACE FUNCTION localstore.production_and_timeline() RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT format(
        '%s.%s.%s', system_identifier, left(pg_walfile_name(pg_current_wal_lsn()), 8),
        (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
    )
    FROM pg_control_system();
END;

-- The state of each of these tables that is followed. It names the production and its timeline, so that no state of a
-- copy or of a time before a restore is taken for one of now.
CREATE OR REPLACE FUNCTION localstore.states_of_rows(target text, tables text[])
RETURNS TABLE (tbl text, state text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT DISTINCT t.name, p.production || '|' || pg_current_snapshot()::text
    FROM localstore.tables t, LATERAL (SELECT localstore.production_and_timeline() AS production) p
    WHERE t.target = states_of_rows.target AND t.name = ANY (tables);
END;

-- Whether nothing has changed since these states, table by table. What was not visible in a state and is by now came
-- afterwards, however long its transaction had been under way. Applications' writes name their table in the feed, a
-- promotion or rollback its batch, whose undo names the tables; where undo is gone already, any of them may be meant.
CREATE OR REPLACE FUNCTION localstore.rows_unchanged(target text, tables text[], states text[]) RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    company constant text := current_setting('app.current_company_id', true);
    allowed constant text[] := localstore.companies_of_login();
    here constant text := localstore.production_and_timeline() || '|';
    wanted record;
    seen pg_snapshot;
BEGIN
    IF company IS NULL OR company = '' OR company <> ALL (allowed) THEN
        RETURN false;
    END IF;
    FOR wanted IN SELECT s.state, array_agg(s.tbl) AS tables FROM unnest(tables, states) AS s (tbl, state) GROUP BY 1
    LOOP
        IF wanted.state IS NULL OR NOT starts_with(wanted.state, here) THEN
            RETURN false;
        END IF;
        BEGIN
            seen := substr(wanted.state, length(here) + 1)::pg_snapshot;
        EXCEPTION WHEN data_exception THEN
            RETURN false;
        END;
        IF EXISTS (
            SELECT FROM localstore.feed f
            WHERE f.company_id = company AND f.target = rows_unchanged.target AND f.xid >= pg_snapshot_xmin(seen)
                AND NOT pg_visible_in_snapshot(f.xid, seen)
                AND (
                    f.tbl = ANY (wanted.tables)
                    OR f.batch IS NOT NULL AND (
                        EXISTS (SELECT FROM localstore.undo u WHERE u.batch = f.batch AND u.tbl = ANY (wanted.tables))
                        OR NOT EXISTS (SELECT FROM localstore.undo u WHERE u.batch = f.batch)
                    )
                )
        ) THEN
            RETURN false;
        END IF;
    END LOOP;
    RETURN true;
END
$function$;

REVOKE ALL ON FUNCTION localstore.production_and_timeline(), localstore.states_of_rows(text, text[]),
    localstore.rows_unchanged(text, text[], text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION localstore.states_of_rows(text, text[]), localstore.rows_unchanged(text, text[], text[])
    TO app_user;
