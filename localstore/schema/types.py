"""Production's type for every kind of column, the one in which it travels, and the kind that a declaration names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from localstore.schema.tables import Kind

PRODUCTION_TYPES: Final[Mapping[Kind, str]] = MappingProxyType(
    {
        Kind.TEXT: "text",
        Kind.INTEGER: "bigint",
        Kind.REAL: "double precision",
        Kind.NUMERIC: "numeric",
        Kind.BOOLEAN: "boolean",
        Kind.TIMESTAMP: "timestamp with time zone",
        Kind.DATE: "date",
        Kind.TIME: "time without time zone",
        Kind.UUID: "uuid",
        Kind.JSON: "jsonb",
        Kind.BLOB: "bytea",
        Kind.VECTOR: "vector",
    }
)
"""The names are `format_type`'s, so that they compare equal to what production's catalogue says."""

TRAVELLING_VECTOR: Final = "real[]"
"""What vectors are in staging, in undo and in a bundle. Their own type belongs to an extension: a production may lack
it, and its OID is another one in every database. PostgreSQL casts both ways without loss."""

TYPE_OIDS: Final[Mapping[Kind, int]] = MappingProxyType(
    {
        Kind.TEXT: 25,
        Kind.INTEGER: 20,
        Kind.REAL: 701,
        Kind.NUMERIC: 1700,
        Kind.BOOLEAN: 16,
        Kind.TIMESTAMP: 1184,
        Kind.DATE: 1082,
        Kind.TIME: 1083,
        Kind.UUID: 2950,
        Kind.JSON: 3802,
        Kind.BLOB: 17,
        Kind.VECTOR: 1021,
    }
)
"""The OIDs of the types in which values travel: built-in types keep them in every PostgreSQL."""

_DECLARATIONS: Final[Mapping[str, Kind]] = MappingProxyType(
    {
        name: kind
        for kind, names in {
            Kind.TEXT: (
                "TEXT,CLOB,CHAR,CHARACTER,VARCHAR,VARYING CHARACTER,CHARACTER VARYING,NCHAR,NATIVE CHARACTER,NVARCHAR"
            ),
            Kind.INTEGER: "INTEGER,INT,BIGINT,SMALLINT,TINYINT,MEDIUMINT,INT2,INT4,INT8,BIG INT,UNSIGNED BIG INT",
            Kind.REAL: "REAL,FLOAT,DOUBLE,DOUBLE PRECISION",
            Kind.NUMERIC: "NUMERIC,DECIMAL",
            Kind.BOOLEAN: "BOOLEAN,BOOL",
            Kind.TIMESTAMP: "TIMESTAMP,DATETIME,TIMESTAMPTZ,TIMESTAMP WITH TIME ZONE",
            Kind.DATE: "DATE",
            Kind.TIME: "TIME",
            Kind.UUID: "UUID,GUID,UNIQUEIDENTIFIER",
            Kind.JSON: "JSON,JSONB",
            Kind.BLOB: "BLOB,BYTEA,BINARY,VARBINARY",
            Kind.VECTOR: "F32_BLOB",
        }.items()
        for name in names.split(",")
    }
)

_LENGTH = re.compile(r"\([^()]*\)")


def production_type(kind: Kind) -> str:
    """Return the name of production's type for a kind, as `format_type` writes it."""
    return PRODUCTION_TYPES[kind]


def travelling_type(kind: Kind) -> str:
    """Return the name of the type in which a kind travels: production's, but of vectors a built-in one."""
    return TRAVELLING_VECTOR if kind is Kind.VECTOR else PRODUCTION_TYPES[kind]


def type_oid(kind: Kind) -> int:
    """Return the OID of the type in which a kind travels."""
    return TYPE_OIDS[kind]


def kind_of_declared(declared: str) -> Kind | None:
    """Return the kind that a SQLite declared type names, or None where only the stored values can tell.

    None is the answer for a column without a type, for an unknown name, and for a name whose affinity is not what
    it says: `STRING` stores numbers and `FLOATING POINT` is an integer to SQLite.
    """
    return _DECLARATIONS.get(" ".join(_LENGTH.sub(" ", declared).upper().split()))
