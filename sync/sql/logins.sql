-- Logins that are limited to companies, whatever setting they make. The policies that do it cost every query a little,
-- so they are made only when the first such login is listed; a login that is not listed is not limited.

-- session_user is whoever logged in: neither SET ROLE nor a setting changes it. NULL means not limited.
CREATE OR REPLACE FUNCTION localstore.companies_of_login() RETURNS text[]
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
RETURN (SELECT array_agg(company_id) FROM localstore.logins WHERE login = session_user);

-- A table's company column is the one that its first policy tests, whatever it is called.
CREATE OR REPLACE FUNCTION localstore.limit_tables() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    companies constant text := '(SELECT localstore.companies_of_login())';
    found record;
    test text;
BEGIN
    IF NOT EXISTS (SELECT FROM localstore.logins) THEN
        RETURN;
    END IF;
    FOR found IN
        SELECT p.polrelid::regclass AS relation, format('%I', a.attname) AS company
        FROM pg_policy p
        JOIN pg_depend d ON d.classid = 'pg_policy'::regclass AND d.objid = p.oid
            AND d.refclassid = 'pg_class'::regclass AND d.refobjid = p.polrelid AND d.refobjsubid > 0
        JOIN pg_attribute a ON a.attrelid = p.polrelid AND a.attnum = d.refobjsubid
        WHERE p.polname = 'localstore_company'
        UNION
        SELECT p.polrelid::regclass, CASE WHEN c.relname = 'chunks' THEN NULL ELSE 'company_id' END
        FROM pg_policy p
        JOIN pg_class c ON c.oid = p.polrelid
        WHERE p.polname = 'localstore_roles' AND c.relnamespace = 'localstore'::regnamespace
    LOOP
        CONTINUE WHEN EXISTS (
            SELECT FROM pg_policy WHERE polrelid = found.relation AND polname = 'localstore_login'
        );
        -- A chunk is whose batch it is, and the ledger shows a limited login its own batches only.
        test := CASE
            WHEN found.company IS NULL THEN
                companies || ' IS NULL OR EXISTS (SELECT FROM localstore.ledger l WHERE l.batch = chunks.batch)'
            ELSE format('%1$s IS NULL OR %2$s = ANY (%1$s::text[])', companies, found.company)
        END;
        EXECUTE format(
            'CREATE POLICY localstore_login ON %1$s AS RESTRICTIVE FOR ALL TO PUBLIC USING (%2$s) WITH CHECK (%2$s)',
            found.relation, test
        );
    END LOOP;
END
$function$;

-- Roles that no policy binds, or that could give themselves such a role, cannot be limited: better said than believed.
CREATE OR REPLACE FUNCTION localstore.check_login() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    role pg_roles;
BEGIN
    SELECT * INTO role FROM pg_roles WHERE rolname = NEW.login;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object', MESSAGE = format('there is no role %I', NEW.login);
    END IF;
    IF role.rolsuper OR role.rolbypassrls OR role.rolcreaterole OR pg_has_role(role.oid, 'localstore_owner', 'MEMBER') THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_role_specification',
            MESSAGE = format('%I cannot be limited: it is a superuser, an owner, or may become one', NEW.login);
    END IF;
    RETURN NEW;
END
$function$;

CREATE OR REPLACE FUNCTION localstore.limit_listed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
    PERFORM localstore.limit_tables();
    RETURN NULL;
END
$function$;

CREATE OR REPLACE TRIGGER check_login BEFORE INSERT OR UPDATE ON localstore.logins
    FOR EACH ROW EXECUTE FUNCTION localstore.check_login();
CREATE OR REPLACE TRIGGER limit_listed AFTER INSERT OR UPDATE ON localstore.logins
    FOR EACH STATEMENT EXECUTE FUNCTION localstore.limit_listed();

-- What an owner calls: SELECT localstore.limit_login('box7', 'wedosoft').
CREATE OR REPLACE FUNCTION localstore.limit_login(login name, company_id text) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    INSERT INTO localstore.logins (login, company_id)
    VALUES (limit_login.login, limit_login.company_id)
    ON CONFLICT DO NOTHING;
END;

-- Policies call the first as whoever queries; the others are the owner's.
GRANT EXECUTE ON FUNCTION localstore.companies_of_login() TO PUBLIC;
REVOKE ALL ON FUNCTION localstore.limit_tables(), localstore.check_login(), localstore.limit_listed(),
    localstore.limit_login(name, text) FROM PUBLIC;
