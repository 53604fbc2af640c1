"""Production's and staging's tables as statements, made from a `Table`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from localstore.postgres.quoting import quote_identifier, quote_literal
from localstore.schema.tables import Column, ForeignKey, Table
from localstore.schema.types import production_type, travelling_type

STAGING_SCHEMA: Final = "localstore_staging"

NAME_BYTES: Final = 63
"""What PostgreSQL keeps of a name; the rest it drops without a word."""

STAGED_COLUMNS_MAX: Final = 790
"""Two columns each, and those of staging itself, stay below PostgreSQL's 1,600 columns a table."""

INDEX_COLUMNS_MAX: Final = 32

STAGING_COLUMNS: Final = ("batch", "chunk", "ordinal", "op", "changed", "defect", "key_text", "reason", "detail")
"""The columns before `n0, b0, …`; `reason` and `detail` are promotion's and not among the copied ones."""

COPIED_COLUMNS: Final = STAGING_COLUMNS[:7]

_SYSTEM_COLUMNS: Final = frozenset({"ctid", "tableoid", "xmin", "xmax", "cmin", "cmax"})

_ON_DELETE: Final[Mapping[str, str]] = {"CASCADE": "CASCADE", "RESTRICT": "RESTRICT", "SET NULL": "SET NULL"}
"""Production has no defaults of the file's, so SET DEFAULT becomes NO ACTION rather than something else."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A foreign key as production has it: both sides led by the company column, in production's names."""

    columns: tuple[str, ...]
    parent: str
    parent_columns: tuple[str, ...]
    on_delete: str


def production_name(name: str) -> str:
    """Return a name as production has it: itself, or cut to 63 bytes with a hash of the whole."""
    encoded = name.encode()
    if len(encoded) <= NAME_BYTES:
        return name
    digest = hashlib.blake2b(encoded, digest_size=8).hexdigest()
    return encoded[: NAME_BYTES - len(digest) - 1].decode(errors="ignore") + "_" + digest


def relation(target: str, name: str) -> str:
    """Return production's table of that (local) name, quoted and with its schema."""
    return f"{quote_identifier(target)}.{quote_identifier(production_name(name))}"


def staging_name(target: str, table: Table) -> str:
    """Return the name of a table's staging table, without its schema."""
    identity = f"{target}\0{table.name}\0{table.fingerprint}".encode()
    return "t_" + hashlib.blake2b(identity, digest_size=8).hexdigest()


def staging_relation(target: str, table: Table) -> str:
    """Return a table's staging table, quoted and with its schema."""
    return f"{quote_identifier(STAGING_SCHEMA)}.{quote_identifier(staging_name(target, table))}"


def production_columns(table: Table) -> tuple[tuple[str, str, bool], ...]:
    """Return (name, type, not null) of the columns that production's table must have, the company's among them."""
    columns = [
        (production_name(column.name), production_type(column.kind), _required(table, column)) for column in table.sent
    ]
    if not table.has_company:
        columns.insert(0, (production_name(table.company), "text", True))
    return tuple(columns)


def production_key(table: Table) -> tuple[str, ...]:
    """Return production's primary key in production's names."""
    return _names(table.production_key)


def production_uniques(table: Table) -> tuple[tuple[str, ...], ...]:
    """Return the secondary unique keys, led by the company: without it they would tell of another tenant's rows.

    Those over computed columns are left out, as the columns are.
    """
    key = set(production_key(table))
    uniques = dict.fromkeys(_led(table, unique) for unique in table.uniques)
    return tuple(unique for unique in uniques if set(unique) != key and _all_sent(table, unique))


def production_references(table: Table, tables: Mapping[str, Table]) -> tuple[Reference, ...]:
    """Return the foreign keys that production can hold; `tables` are those it has or is about to have, by name.

    Left out are references to tables that production does not have, to columns that are no key there, and between
    columns of different kinds: SQLite allows all three, PostgreSQL none.
    """
    references = (_reference(table, key, tables.get(key.parent)) for key in table.foreign_keys)
    return tuple(dict.fromkeys(reference for reference in references if reference is not None))


def unsupported(table: Table) -> tuple[str, ...]:
    """Return why production cannot hold the table at all; nothing when it can."""
    names = [column.name for column in table.sent]
    reasons = []
    if not table.name:
        reasons.append("its name is empty")
    if "" in names or not table.company:
        reasons.append("a column's name is empty")
    reasons += [f"{quote_identifier(name)} is a system column's name" for name in names if name in _SYSTEM_COLUMNS]
    if len(names) > STAGED_COLUMNS_MAX:
        reasons.append(f"it has {len(names)} columns, {STAGED_COLUMNS_MAX} at most can be staged")
    if not table.key:
        reasons.append("it has no primary key")
    reasons += [f"the key column {quote_identifier(name)} is computed" for name in table.key_parts if name not in names]
    if max(map(len, (production_key(table), *production_uniques(table)))) > INDEX_COLUMNS_MAX:
        reasons.append(f"a key has more than {INDEX_COLUMNS_MAX} columns, the company's among them")
    company = table.by_name.get(table.company)
    if company is None and table.has_company:
        reasons.append(f"it has no column {quote_identifier(table.company)} to hold the company")
    elif company is not None and not table.has_company:
        reasons.append(f"its own column {quote_identifier(table.company)} stands where the company's would")
    elif company is not None and (company.computed or production_type(company.kind) != "text"):
        reasons.append(f"its company column {quote_identifier(table.company)} is not plain text")
    return tuple(reasons)


def create_table(target: str, table: Table, types: Mapping[str, str] = MappingProxyType({})) -> str:
    """Return the statement that makes production's table, without foreign keys; `types` stand in for types named so.

    The primary key is not deferrable: a deferrable one cannot be a conflict target.
    """
    lines = [
        f"{quote_identifier(name)} {types.get(kind, kind)}{' NOT NULL' if required else ''}"
        for name, kind, required in production_columns(table)
    ]
    lines.append(f"PRIMARY KEY ({_list(production_key(table))})")
    return f"CREATE TABLE {relation(target, table.name)} (\n    " + ",\n    ".join(lines) + "\n)"


def create_uniques(target: str, table: Table, tables: Iterable[Table], taken: set[str]) -> tuple[str, ...]:
    """Return the statements that make the secondary unique keys, checked late where nothing refers to them.

    A key that is checked at each row stands in the way of two rows that swap their values; one that a foreign key
    refers to must be checked so. `taken` are names already used in the schema; the new ones are added to it.
    """
    known = {other.name: other for other in tables}
    referenced = {
        frozenset(reference.parent_columns)
        for other in known.values()
        for reference in production_references(other, known)
        if reference.parent == table.name
    }
    statements = []
    for columns in production_uniques(table):
        late = "" if frozenset(columns) in referenced else " DEFERRABLE INITIALLY IMMEDIATE"
        name = _fresh(table.name, columns, "key", taken)
        statements.append(
            f"ALTER TABLE {relation(target, table.name)} ADD CONSTRAINT {quote_identifier(name)} "
            f"UNIQUE ({_list(columns)}){late}"
        )
    return tuple(statements)


def production_indexes(table: Table) -> tuple[tuple[str, ...], ...]:
    """Return the columns of the plain indexes, and of one for each foreign key that has none."""
    present = [production_key(table), *production_uniques(table)]
    wanted = [_led(table, index.columns) for index in table.indexes]
    wanted += [_led(table, key.columns) for key in table.foreign_keys]
    found = []
    for place, columns in enumerate(wanted):
        is_reference = place >= len(table.indexes)
        covered = any(other[: len(columns)] == columns for other in present) if is_reference else columns in present
        if covered or len(columns) > INDEX_COLUMNS_MAX or not _all_sent(table, columns):
            continue
        present.append(columns)
        found.append(columns)
    return tuple(found)


def create_indexes(target: str, table: Table, taken: set[str]) -> tuple[str, ...]:
    """Return the statements that make the plain indexes, and one for each foreign key that has none."""
    statements = []
    for columns in production_indexes(table):
        name = _fresh(table.name, columns, "idx", taken)
        statements.append(f"CREATE INDEX {quote_identifier(name)} ON {relation(target, table.name)} ({_list(columns)})")
    return tuple(statements)


def create_references(target: str, table: Table, tables: Mapping[str, Table], taken: set[str]) -> tuple[str, ...]:
    """Return the statements that make the foreign keys; both sides hold the company, since their check sees all rows.

    SET NULL names its columns, because the company column cannot be NULL.
    """
    company = production_name(table.company)
    statements = []
    for reference in production_references(table, tables):
        own = tuple(column for column in reference.columns if column != company)
        name = _fresh(table.name, reference.columns, "fkey", taken)
        action = f"SET NULL ({_list(own)})" if reference.on_delete == "SET NULL" else reference.on_delete
        statements.append(
            f"ALTER TABLE {relation(target, table.name)} ADD CONSTRAINT {quote_identifier(name)} "
            f"FOREIGN KEY ({_list(reference.columns)}) "
            f"REFERENCES {relation(target, reference.parent)} ({_list(reference.parent_columns)}) "
            f"ON DELETE {action} DEFERRABLE INITIALLY IMMEDIATE"
        )
    return tuple(statements)


def create_staging(target: str, table: Table) -> tuple[str, ...]:
    """Return the statements that make a table's staging table: the types in which values travel and no constraints."""
    staging = staging_relation(target, table)
    lines = [
        "batch uuid NOT NULL",
        "chunk integer NOT NULL",
        "ordinal bigint NOT NULL",
        'op "char" NOT NULL',
        "changed bit varying",
        "defect jsonb",
        "key_text text[]",
        "reason text",
        "detail jsonb",
    ]
    for place, column in enumerate(table.sent):
        kind = travelling_type(column.kind)
        lines += [f"n{place} {kind}", f"b{place} {kind}"]
    comment = f"staging of {relation(target, table.name)}, fingerprint {table.fingerprint}"
    return (
        f"CREATE TABLE IF NOT EXISTS {staging} (\n    " + ",\n    ".join(lines) + "\n)",
        f"CREATE INDEX IF NOT EXISTS {quote_identifier(staging_name(target, table) + '_batch')} ON {staging} (batch)",
        f"COMMENT ON TABLE {staging} IS {quote_literal(comment)}",
    )


def _required(table: Table, column: Column) -> bool:
    return not column.nullable or column.name in table.production_key


def _names(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(production_name(name) for name in names)


def _led(table: Table, columns: Iterable[str]) -> tuple[str, ...]:
    return _names((table.company, *(name for name in columns if name != table.company)))


def _list(columns: Iterable[str]) -> str:
    return ", ".join(quote_identifier(column) for column in columns)


def _all_sent(table: Table, columns: tuple[str, ...]) -> bool:
    sent = {name for name, _, _ in production_columns(table)}
    return all(column in sent for column in columns)


def _reference(table: Table, key: ForeignKey, parent: Table | None) -> Reference | None:
    if parent is None:
        return None
    parent_columns = key.parent_columns or parent.key
    if len(parent_columns) != len(key.columns):
        return None
    columns, referred = [production_name(table.company)], [production_name(parent.company)]
    for own, other in zip(key.columns, parent_columns, strict=True):
        if own == table.company and other == parent.company:
            continue
        child_column, parent_column = table.by_name.get(own), parent.by_name.get(other)
        if child_column is None or parent_column is None or child_column.computed or parent_column.computed:
            return None
        if table.company == own or parent.company == other or child_column.kind is not parent_column.kind:
            return None
        columns.append(production_name(own))
        referred.append(production_name(other))
    if set(referred) not in [set(production_key(parent)), *map(set, production_uniques(parent))]:
        return None
    return Reference(tuple(columns), key.parent, tuple(referred), _ON_DELETE.get(key.on_delete.upper(), "NO ACTION"))


def _fresh(table: str, columns: tuple[str, ...], suffix: str, taken: set[str]) -> str:
    name = production_name("_".join((table, *columns, suffix)))
    if name in taken:
        name = production_name("_".join((table, *columns, suffix)).ljust(NAME_BYTES + 1, "_"))
    taken.add(name)
    return name
