-- What production keeps for sync, owned by localstore_owner, who runs this. Everything is made only where it is missing.

CREATE TABLE IF NOT EXISTS localstore.tenants (
    company_id text PRIMARY KEY,
    mode text NOT NULL DEFAULT 'file' CHECK (mode IN ('file', 'hybrid', 'advancing', 'postgresql')),
    target text NOT NULL DEFAULT 'public',
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS localstore.tables (
    target text,
    name text,
    fingerprint text,
    definition jsonb NOT NULL,
    staging text NOT NULL,
    registered_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (target, name, fingerprint)
);

CREATE TABLE IF NOT EXISTS localstore.ledger (
    batch uuid PRIMARY KEY,
    company_id text NOT NULL,
    kind text NOT NULL DEFAULT 'push' CHECK (kind IN ('push', 'rollback')),
    replica uuid,
    epoch integer,
    seq bigint,
    parent text,
    hash text NOT NULL,
    undoes uuid,
    target text NOT NULL,
    state text NOT NULL CHECK (state IN ('staging', 'staged', 'promoted', 'rolled_back', 'withdrawn')),
    manifest jsonb NOT NULL,
    counts jsonb,
    sealed_at timestamptz,
    staged_at timestamptz,
    promoted_at timestamptz,
    rolled_back_at timestamptz,
    withdrawn_at timestamptz,
    promoted_by text
);
-- One place in a chain is taken once, whatever the epoch; a withdrawn batch frees its place.
CREATE UNIQUE INDEX IF NOT EXISTS ledger_chain ON localstore.ledger (company_id, replica, seq)
    WHERE kind = 'push' AND state <> 'withdrawn';
CREATE INDEX IF NOT EXISTS ledger_company ON localstore.ledger (company_id, staged_at);
-- A batch is taken back once.
CREATE UNIQUE INDEX IF NOT EXISTS ledger_undoes ON localstore.ledger (undoes) WHERE undoes IS NOT NULL;

CREATE TABLE IF NOT EXISTS localstore.chunks (
    batch uuid,
    chunk integer,
    rows integer NOT NULL,
    staged_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (batch, chunk)
);

-- A promotion writes a row here for each row it touches, so the rows are lean and have one index.
CREATE TABLE IF NOT EXISTS localstore.undo (
    batch uuid NOT NULL,
    company_id text NOT NULL,
    tbl text NOT NULL,
    fingerprint text NOT NULL,
    op "char" NOT NULL,
    key text[] NOT NULL,
    changed bit varying,
    before text[],
    row_xmin xid,
    merged boolean NOT NULL DEFAULT false
);
ALTER TABLE localstore.undo ADD COLUMN IF NOT EXISTS merged boolean NOT NULL DEFAULT false;
CREATE INDEX IF NOT EXISTS undo_batch ON localstore.undo (batch, tbl);

CREATE TABLE IF NOT EXISTS localstore.held (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    company_id text,
    replica uuid,
    target text,
    tbl text,
    key text[],
    op "char",
    fingerprint text,
    base jsonb,
    value jsonb,
    production jsonb,
    defects jsonb,
    reason text CHECK (reason IN ('value', 'constraint', 'conflict', 'waits', 'rolled_back')),
    column_name text,
    detail text,
    waits_for text,
    batch uuid,
    ordinal bigint,
    released boolean NOT NULL DEFAULT false,
    since timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS held_company ON localstore.held (company_id, tbl);

CREATE TABLE IF NOT EXISTS localstore.replicas (
    company_id text,
    replica uuid,
    held_revision bigint NOT NULL DEFAULT 0,
    last_contact timestamptz,
    PRIMARY KEY (company_id, replica)
);

-- Up to which state of production an engine outside of it has followed a company's rows.
CREATE TABLE IF NOT EXISTS localstore.followers (
    company_id text,
    target text,
    follower text,
    position text NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (company_id, target, follower)
);

CREATE TABLE IF NOT EXISTS localstore.feed (
    id bigint GENERATED ALWAYS AS IDENTITY,
    company_id text NOT NULL,
    target text NOT NULL,
    tbl text NOT NULL,
    key text[],
    op "char",
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    batch uuid,
    origin text,
    at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS feed_xid ON localstore.feed (company_id, xid);
CREATE INDEX IF NOT EXISTS feed_key ON localstore.feed (company_id, tbl, key);

-- Objects that the object store has whole; `wanted_at` is when a push last said that it would name one.
CREATE TABLE IF NOT EXISTS localstore.objects (
    company_id text,
    hash text,
    size bigint NOT NULL,
    verified_at timestamptz NOT NULL DEFAULT now(),
    wanted_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (company_id, hash)
);

CREATE TABLE IF NOT EXISTS localstore.logins (
    login name,
    company_id text,
    PRIMARY KEY (login, company_id)
);

-- Staging is copied into, and COPY is refused under row-level security, so rights stand in for it there: who stages
-- reads nothing back but which chunks are there.
GRANT USAGE ON SCHEMA localstore, localstore_staging TO localstore_stager, localstore_promoter, localstore_reader;
GRANT SELECT ON ALL TABLES IN SCHEMA localstore TO localstore_stager, localstore_promoter, localstore_reader;
REVOKE ALL ON localstore.logins FROM localstore_stager, localstore_promoter, localstore_reader;
REVOKE SELECT ON localstore.undo FROM localstore_stager;
GRANT INSERT, UPDATE ON localstore.tenants, localstore.ledger, localstore.replicas, localstore.objects
    TO localstore_stager, localstore_promoter;
GRANT INSERT, UPDATE, DELETE ON localstore.chunks TO localstore_stager, localstore_promoter;
GRANT INSERT, UPDATE, DELETE ON localstore.undo, localstore.held, localstore.feed, localstore.followers,
    localstore.objects
    TO localstore_promoter;

-- These tables hold every company's rows and are read by our roles alone. The policy is plain because it exists only
-- for a restrictive one to stand beside it, where a login is limited.
DO $policies$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['tenants', 'ledger', 'chunks', 'undo', 'held', 'replicas', 'followers', 'objects', 'feed'] LOOP
        EXECUTE format('ALTER TABLE localstore.%I ENABLE ROW LEVEL SECURITY', wanted);
        IF NOT EXISTS (
            SELECT FROM pg_catalog.pg_policy
            WHERE polrelid = format('localstore.%I', wanted)::regclass AND polname = 'localstore_roles'
        ) THEN
            EXECUTE format(
                'CREATE POLICY localstore_roles ON localstore.%I FOR ALL '
                'TO localstore_stager, localstore_promoter, localstore_reader USING (true) WITH CHECK (true)',
                wanted
            );
        END IF;
    END LOOP;
END
$policies$;
