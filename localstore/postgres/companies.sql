-- What an application may ask of the list of companies, which it may not read. Each function is about the company of
-- the transaction (app.current_company_id), and a login that is limited to companies sees and makes no others.

CREATE OR REPLACE FUNCTION localstore.companies() RETURNS SETOF text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT t.company_id
    FROM localstore.tenants t, (SELECT localstore.companies_of_login() AS allowed) l
    WHERE l.allowed IS NULL OR t.company_id = ANY (l.allowed)
    ORDER BY t.company_id COLLATE "C";
END;

CREATE OR REPLACE FUNCTION localstore.mode_of_company() RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT t.mode
    FROM localstore.tenants t, (SELECT localstore.companies_of_login() AS allowed) l
    WHERE t.company_id = current_setting('app.current_company_id', true)
        AND (l.allowed IS NULL OR t.company_id = ANY (l.allowed));
END;

-- Lists the company, in mode postgresql, unless it is listed or no target is given; returns its mode. The lock, shared by all writers until
-- their transactions end, is taken exclusively by whoever changes the mode: no write that saw the old one is then
-- still under way. The mode is read by a statement of its own, whose snapshot is taken when the lock is held.
CREATE OR REPLACE FUNCTION localstore.register_company(target text) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    company constant text := current_setting('app.current_company_id', true);
    allowed constant text[] := localstore.companies_of_login();
    found_mode text;
BEGIN
    IF company IS NULL OR company !~ '^[a-z0-9][a-z0-9_-]{0,62}$' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'the transaction names no company';
    END IF;
    IF company <> ALL (allowed) THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
            MESSAGE = format('%I is limited to other companies', session_user);
    END IF;
    PERFORM pg_advisory_xact_lock_shared(hashtextextended('localstore:mode:' || company, 0));
    SELECT t.mode INTO found_mode FROM localstore.tenants t WHERE t.company_id = company;
    IF NOT FOUND AND register_company.target IS NOT NULL THEN
        INSERT INTO localstore.tenants AS t (company_id, mode, target)
        VALUES (company, 'postgresql', register_company.target)
        ON CONFLICT (company_id) DO NOTHING;
        SELECT t.mode INTO found_mode FROM localstore.tenants t WHERE t.company_id = company;
    END IF;
    RETURN found_mode;
END
$function$;

REVOKE ALL ON FUNCTION localstore.companies(), localstore.mode_of_company(), localstore.register_company(text)
    FROM PUBLIC;
GRANT USAGE ON SCHEMA localstore TO app_user;
GRANT EXECUTE ON FUNCTION localstore.companies(), localstore.mode_of_company(), localstore.register_company(text)
    TO app_user;
