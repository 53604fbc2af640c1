-- The cluster's roles and who is a member of what. Only what is missing is done, so that a login without the right to
-- do it passes where nothing is left to do. Roles belong to the whole cluster and are shared by its databases.
DO $roles$
DECLARE
    -- Which options a membership carries can be said since PostgreSQL 16; before, it is the member's INHERIT.
    with_options boolean := current_setting('server_version_num')::integer >= 160000;
    superuser boolean := (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user);
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY[
        'localstore_owner', 'app_user', 'localstore_stager', 'localstore_promoter', 'localstore_reader'
    ] LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = wanted) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
        END IF;
    END LOOP;

    FOREACH wanted IN ARRAY ARRAY['localstore_promoter', 'localstore_reader'] LOOP
        IF NOT pg_catalog.pg_has_role(wanted, 'app_user', 'USAGE') THEN
            EXECUTE format('GRANT app_user TO %I', wanted) || CASE WHEN with_options THEN ' WITH INHERIT TRUE' ELSE '' END;
        END IF;
    END LOOP;

    IF superuser THEN
        RETURN;
    END IF;
    -- The owner's rights are taken on by SET ROLE where they are needed and not carried about: an owner is not bound
    -- by the policies of schema localstore.
    IF NOT pg_catalog.pg_has_role(current_user, 'localstore_owner', CASE WHEN with_options THEN 'SET' ELSE 'MEMBER' END) THEN
        EXECUTE format('GRANT localstore_owner TO %I', current_user)
            || CASE WHEN with_options THEN ' WITH INHERIT FALSE, SET TRUE' ELSE '' END;
    END IF;
    FOREACH wanted IN ARRAY ARRAY['localstore_stager', 'localstore_promoter', 'localstore_reader'] LOOP
        IF NOT pg_catalog.pg_has_role(current_user, wanted, 'USAGE')
            OR NOT pg_catalog.pg_has_role(current_user, wanted, CASE WHEN with_options THEN 'SET' ELSE 'MEMBER' END)
        THEN
            EXECUTE format('GRANT %I TO %I', wanted, current_user)
                || CASE WHEN with_options THEN ' WITH INHERIT TRUE, SET TRUE' ELSE '' END;
        END IF;
    END LOOP;
END
$roles$;
