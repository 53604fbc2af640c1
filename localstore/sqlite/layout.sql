-- The toolkit's own tables in a tenant's file. Each statement may run any number of times.

CREATE TABLE IF NOT EXISTS localstore_identity (
    company_id TEXT NOT NULL,
    replica TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    format INTEGER NOT NULL,
    created_at TEXT NOT NULL,
    mode TEXT NOT NULL
);

-- An index over a constant admits one row and no second one.
CREATE UNIQUE INDEX IF NOT EXISTS localstore_identity_one_row ON localstore_identity ((0));

CREATE TABLE IF NOT EXISTS localstore_tables (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    definition TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    snapshot_due INTEGER NOT NULL DEFAULT 0
);

-- The v columns have no type, so that every value keeps its storage class; capture adds as many as the widest
-- table needs. Nothing here but the rowid is unique: the conflict policy of a caller's statement reaches into the
-- triggers, and OR REPLACE or OR IGNORE would lose marks.
CREATE TABLE IF NOT EXISTS localstore_marks (
    seq INTEGER PRIMARY KEY,
    tbl INTEGER,
    op INTEGER,
    col INTEGER,
    v0, v1, v2, v3, v4, v5, v6, v7
);

CREATE TABLE IF NOT EXISTS localstore_batches (
    batch TEXT NOT NULL PRIMARY KEY,
    seq INTEGER NOT NULL,
    parent TEXT,
    hash TEXT NOT NULL,
    marks_to INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('sealed', 'acknowledged', 'withdrawn')),
    target TEXT,
    sealed_at TEXT NOT NULL,
    acknowledged_at TEXT,
    counts TEXT
);

CREATE TABLE IF NOT EXISTS localstore_held (
    tbl TEXT NOT NULL,
    key TEXT NOT NULL,
    op TEXT NOT NULL,
    base TEXT,
    value TEXT,
    production TEXT,
    reason TEXT NOT NULL,
    column_name TEXT,
    detail TEXT,
    waits_for TEXT,
    batch TEXT,
    since TEXT
);

CREATE INDEX IF NOT EXISTS localstore_held_row ON localstore_held (tbl, key);

CREATE TABLE IF NOT EXISTS localstore_releases (
    tbl TEXT NOT NULL,
    key TEXT NOT NULL,
    action TEXT NOT NULL CHECK (action IN ('retry', 'local')),
    batch TEXT,
    PRIMARY KEY (tbl, key)
);

CREATE TABLE IF NOT EXISTS localstore_state (
    name TEXT NOT NULL PRIMARY KEY,
    value
);
