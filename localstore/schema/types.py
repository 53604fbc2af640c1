"""Production's type for every kind of column, and the kind that a SQLite declaration names."""

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
    }
)
"""The names are `format_type`'s, so that they compare equal to what production's catalogue says."""

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
    }
)
"""Built-in types keep their OIDs in every PostgreSQL."""

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
        }.items()
        for name in names.split(",")
    }
)

_LENGTH = re.compile(r"\([^()]*\)")


def production_type(kind: Kind) -> str:
    """Return the name of production's type for a kind, as `format_type` writes it."""
    return PRODUCTION_TYPES[kind]


def type_oid(kind: Kind) -> int:
    """Return the OID of production's type for a kind."""
    return TYPE_OIDS[kind]


def kind_of_declared(declared: str) -> Kind | None:
    """Return the kind that a SQLite declared type names, or None where only the stored values can tell.

    None is the answer for a column without a type, for an unknown name, and for a name whose affinity is not what
    it says: `STRING` stores numbers and `FLOATING POINT` is an integer to SQLite.
    """
    return _DECLARATIONS.get(" ".join(_LENGTH.sub(" ", declared).upper().split()))
