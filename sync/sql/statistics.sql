-- Staged rows are joined as soon as they are there, long before autovacuum would tell the planner how many they are.

CREATE OR REPLACE FUNCTION localstore.analyze_staging(staging text, columns text[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    relation constant regclass := to_regclass(staging);
BEGIN
    IF NOT EXISTS (
        SELECT FROM pg_class c WHERE c.oid = relation AND c.relnamespace = to_regnamespace('localstore_staging')
    ) THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_table', MESSAGE = format('%s is no staging table', staging);
    END IF;
    EXECUTE format(
        'ANALYZE %s (%s)', relation, (SELECT string_agg(quote_ident(name), ', ') FROM unnest(columns) AS name)
    );
END
$function$;

REVOKE ALL ON FUNCTION localstore.analyze_staging(text, text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION localstore.analyze_staging(text, text[]) TO localstore_stager, localstore_promoter;
