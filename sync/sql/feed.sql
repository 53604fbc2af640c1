-- Records which rows a statement changed, for every writer but the promoter, whose feed row names its batch instead.
-- It runs as the owner because writers have no rights in schema localstore. Its arguments come from the trigger:
-- target, table, company column, key columns. Nobody but the owner can attach it to a table, and called otherwise
-- than by a trigger it fails. The settings make a key's text the same in every session.
CREATE OR REPLACE FUNCTION localstore.record_changes() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
SET datestyle = 'ISO, YMD'
SET intervalstyle = 'postgres'
SET bytea_output = 'hex'
SET extra_float_digits = 1
AS $function$
DECLARE
    target constant text := TG_ARGV[0];
    tbl constant text := TG_ARGV[1];
    company constant text := TG_ARGV[2];
    old_key text;
    new_key text;
    same_key text;
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        INSERT INTO localstore.feed (company_id, target, tbl, op, origin)
        SELECT t.company_id, TG_ARGV[0], TG_ARGV[1], 't', session_user FROM localstore.tenants t;
        RETURN NULL;
    END IF;

    -- A cascade runs one statement for each parent, most of them over nothing.
    IF TG_OP = 'INSERT' THEN
        IF NOT EXISTS (SELECT FROM new_rows) THEN
            RETURN NULL;
        END IF;
    ELSIF NOT EXISTS (SELECT FROM old_rows) THEN
        RETURN NULL;
    END IF;

    SELECT
        'ARRAY[' || coalesce(string_agg(format('localstore_old.%I::text', part), ', ' ORDER BY place), '') || ']::text[]',
        'ARRAY[' || coalesce(string_agg(format('localstore_new.%I::text', part), ', ' ORDER BY place), '') || ']::text[]',
        format('localstore_old.%1$I = localstore_new.%1$I', company)
            || coalesce(string_agg(format(' AND localstore_old.%1$I = localstore_new.%1$I', part), ''), '')
    INTO old_key, new_key, same_key
    FROM unnest(TG_ARGV[3:]) WITH ORDINALITY AS parts (part, place);

    IF TG_OP = 'INSERT' THEN
        EXECUTE format(
            'INSERT INTO localstore.feed (company_id, target, tbl, key, op, origin) '
            'SELECT localstore_new.%I::text, $1, $2, %s, ''i'', session_user FROM new_rows localstore_new',
            company, new_key
        ) USING target, tbl;
    ELSIF TG_OP = 'DELETE' THEN
        EXECUTE format(
            'INSERT INTO localstore.feed (company_id, target, tbl, key, op, origin) '
            'SELECT localstore_old.%I::text, $1, $2, %s, ''d'', session_user FROM old_rows localstore_old',
            company, old_key
        ) USING target, tbl;
    ELSE
        -- A row whose key changed has no partner: it went away under the old key and came under the new one. Rows are
        -- compared by their bytes, since not every type has an equality. The names are long because a whole row is
        -- named by its alias, and a column of that name would come first.
        EXECUTE format(
            'INSERT INTO localstore.feed (company_id, target, tbl, key, op, origin) '
            'SELECT coalesce(localstore_new.%1$I, localstore_old.%1$I)::text, $1, $2, '
            'CASE WHEN localstore_new.%1$I IS NULL THEN %2$s ELSE %3$s END, '
            'CASE WHEN localstore_new.%1$I IS NULL THEN ''d'' WHEN localstore_old.%1$I IS NULL THEN ''i'' ELSE ''u'' END, '
            'session_user '
            'FROM old_rows localstore_old FULL JOIN new_rows localstore_new ON %4$s '
            'WHERE localstore_new.%1$I IS NULL OR localstore_old.%1$I IS NULL '
            'OR localstore_old *<> localstore_new',
            company, old_key, new_key, same_key
        ) USING target, tbl;
    END IF;
    RETURN NULL;
END
$function$;

REVOKE ALL ON FUNCTION localstore.record_changes() FROM PUBLIC;
