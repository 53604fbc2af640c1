-- Which companies' vectors are to be brought to Qdrant: $1 the follower, $2 and $3 name and fingerprint of the table of
-- vectors, $4 companies that come first, $5 how many others at most, $6 after how many days undo goes. A position tells
-- by its snapshot whether anything came since. Where nothing does it is moved on from time to time, since beyond undo it
-- says nothing any more. One that belongs to another production, or lies in the future, says nothing about this one.
WITH here AS MATERIALIZED (
    SELECT s.system_identifier::text AS system, pg_current_snapshot() AS snapshot,
        ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer AS timeline,
        (SELECT d.oid::bigint FROM pg_database d WHERE d.datname = current_database()) AS database
    FROM pg_control_system() s
),
wanted AS (
    SELECT t.company_id, t.target FROM localstore.tenants t
    UNION
    SELECT f.company_id, f.target FROM localstore.followers f WHERE f.follower = $1
),
positions AS (
    SELECT w.company_id, w.target, f.at, f.position::jsonb AS position
    FROM wanted w LEFT JOIN localstore.followers f
        ON f.company_id = w.company_id AND f.target = w.target AND f.follower = $1
    WHERE EXISTS (SELECT FROM localstore.tables k WHERE k.target = w.target AND k.name = $2 AND k.fingerprint = $3)
)
SELECT p.company_id, p.target
FROM positions p, here, LATERAL (SELECT (p.position ->> 'snapshot')::pg_snapshot AS seen) s
WHERE p.position IS NULL
    OR p.at < now() - make_interval(days => $6::integer / 2)
    OR (p.position ->> 'system_identifier', (p.position ->> 'timeline')::integer, (p.position ->> 'database')::bigint)
        IS DISTINCT FROM (here.system, here.timeline, here.database)
    OR pg_snapshot_xmax(s.seen) > pg_snapshot_xmax(here.snapshot)
    OR EXISTS (
        SELECT FROM localstore.feed f
        WHERE f.company_id = p.company_id AND f.target = p.target AND f.xid >= pg_snapshot_xmin(s.seen)
            AND NOT pg_visible_in_snapshot(f.xid, s.seen)
            AND (
                f.tbl = $2
                OR f.batch IS NOT NULL AND (
                    EXISTS (SELECT FROM localstore.undo u WHERE u.batch = f.batch AND u.tbl = $2)
                    OR NOT EXISTS (SELECT FROM localstore.undo u WHERE u.batch = f.batch)
                )
            )
    )
ORDER BY p.company_id <> ALL ($4::text[]), p.at NULLS LAST, p.company_id
LIMIT cardinality($4::text[]) + $5::integer
