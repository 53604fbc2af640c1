-- What promotion must know of production's tables. $1: schema, $2: names; one row a table, its parts as JSON.
-- Names are always quoted, as the Python side writes them, so that they compare equal as text.
-- What newer servers added is read through to_jsonb, so that one text serves all.
WITH links AS (
    SELECT
        k.conrelid,
        k.confrelid,
        jsonb_build_object(
            'name', k.conname,
            'child', '"' || replace(cn.nspname, '"', '""') || '"."' || replace(cc.relname, '"', '""') || '"',
            'child_columns', (
                SELECT jsonb_agg(a.attname ORDER BY u.place)
                FROM unnest(k.conkey) WITH ORDINALITY u (attnum, place)
                JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.attnum
            ),
            'parent', '"' || replace(pn.nspname, '"', '""') || '"."' || replace(pc.relname, '"', '""') || '"',
            'parent_columns', (
                SELECT jsonb_agg(a.attname ORDER BY u.place)
                FROM unnest(k.confkey) WITH ORDINALITY u (attnum, place)
                JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.attnum
            ),
            'on_delete', CASE k.confdeltype
                WHEN 'c' THEN 'CASCADE' WHEN 'n' THEN 'SET NULL' WHEN 'd' THEN 'SET DEFAULT'
                WHEN 'r' THEN 'RESTRICT' ELSE 'NO ACTION'
            END,
            'match_full', k.confmatchtype = 'f',
            'deferrable', k.condeferrable,
            'validated', k.convalidated
        ) AS link
    FROM pg_constraint k
    JOIN pg_class cc ON cc.oid = k.conrelid
    JOIN pg_namespace cn ON cn.oid = cc.relnamespace
    JOIN pg_class pc ON pc.oid = k.confrelid
    JOIN pg_namespace pn ON pn.oid = pc.relnamespace
    WHERE k.contype = 'f' AND k.conparentid = 0 AND coalesce((to_jsonb(k) ->> 'conenforced')::boolean, true)
)
SELECT
    c.relname AS name,
    '"' || replace(n.nspname, '"', '""') || '"."' || replace(c.relname, '"', '""') || '"' AS relation,
    c.relkind::text AS kind,
    pg_get_userbyid(c.relowner) AS owner,
    c.relrowsecurity AND c.relforcerowsecurity AS forced,
    jsonb_build_object(
        'columns', (
            SELECT jsonb_agg(jsonb_build_object(
                'name', a.attname,
                'type', format_type(a.atttypid, a.atttypmod),
                'not_null', a.attnotnull,
                'default', CASE WHEN a.attgenerated = '' THEN pg_get_expr(d.adbin, d.adrelid) END,
                'identity', a.attidentity::text,
                'generated', a.attgenerated <> '',
                'sequence', (
                    SELECT '"' || replace(sn.nspname, '"', '""') || '"."' || replace(s.relname, '"', '""') || '"'
                    FROM pg_depend x
                    JOIN pg_class s ON s.relkind = 'S'
                        AND s.oid = CASE WHEN x.classid = 'pg_class'::regclass THEN x.objid ELSE x.refobjid END
                    JOIN pg_namespace sn ON sn.oid = s.relnamespace
                    WHERE (
                        x.classid = 'pg_class'::regclass AND x.refclassid = 'pg_class'::regclass
                        AND x.refobjid = c.oid AND x.refobjsubid = a.attnum AND x.deptype IN ('a', 'i')
                    ) OR (
                        x.classid = 'pg_attrdef'::regclass AND x.objid = d.oid AND x.refclassid = 'pg_class'::regclass
                    )
                    ORDER BY s.oid LIMIT 1
                )
            ) ORDER BY a.attnum)
            FROM pg_attribute a
            LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
            WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        ),
        'checks', (
            SELECT jsonb_agg(jsonb_build_object(
                'name', k.conname,
                'expression', pg_get_expr(k.conbin, k.conrelid),
                'validated', k.convalidated,
                'columns', (
                    SELECT jsonb_agg(a.attname ORDER BY u.place)
                    FROM unnest(k.conkey) WITH ORDINALITY u (attnum, place)
                    JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.attnum
                )
            ) ORDER BY k.conname)
            FROM pg_constraint k
            WHERE k.conrelid = c.oid AND k.contype = 'c'
                AND coalesce((to_jsonb(k) ->> 'conenforced')::boolean, true)
        ),
        'uniques', (
            SELECT jsonb_agg(jsonb_build_object(
                'name', ic.relname,
                'columns', (
                    SELECT jsonb_agg(a.attname ORDER BY u.place)
                    FROM unnest(i.indkey::smallint[]) WITH ORDINALITY u (attnum, place)
                    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = u.attnum
                    WHERE u.place <= i.indnkeyatts
                ),
                'primary', i.indisprimary,
                'deferrable', NOT i.indimmediate,
                'predicate', pg_get_expr(i.indpred, i.indrelid),
                'expressions', i.indexprs IS NOT NULL,
                'nulls_distinct', NOT i.indnullsnotdistinct
            ) ORDER BY i.indisprimary DESC, ic.relname)
            FROM pg_index i
            JOIN pg_class ic ON ic.oid = i.indexrelid
            WHERE i.indrelid = c.oid AND i.indisunique
                AND NOT i.indisexclusion
        ),
        'foreign_keys', (
            SELECT jsonb_agg(links.link ORDER BY links.link ->> 'name') FROM links WHERE links.conrelid = c.oid
        ),
        'referenced_by', (
            SELECT jsonb_agg(links.link ORDER BY links.link ->> 'child', links.link ->> 'name')
            FROM links WHERE links.confrelid = c.oid
        ),
        'exclusions', (
            SELECT jsonb_agg(k.conname ORDER BY k.conname) FROM pg_constraint k
            WHERE k.conrelid = c.oid AND k.contype = 'x'
        ),
        'triggers', (
            SELECT jsonb_agg(jsonb_build_object(
                'name', t.tgname,
                'function', t.tgfoid::regprocedure::text,
                'before', t.tgtype & 2 <> 0,
                'each_row', t.tgtype & 1 <> 0,
                'deferrable', t.tgdeferrable,
                'events', array_to_json(array_remove(ARRAY[
                    CASE WHEN t.tgtype & 4 <> 0 THEN 'insert' END,
                    CASE WHEN t.tgtype & 8 <> 0 THEN 'delete' END,
                    CASE WHEN t.tgtype & 16 <> 0 THEN 'update' END
                ], NULL))
            ) ORDER BY t.tgname)
            FROM pg_trigger t
            WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgenabled <> 'D'
        ),
        'policies', (
            SELECT jsonb_agg(jsonb_build_object('name', p.polname, 'permissive', p.polpermissive) ORDER BY p.polname)
            FROM pg_policy p WHERE p.polrelid = c.oid
        )
    )::text AS parts
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relname = ANY ($2::text[]) AND c.relkind NOT IN ('i', 'I', 'S', 't')
ORDER BY c.relname
