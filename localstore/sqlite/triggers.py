"""The text of the triggers that capture one table's writes as marks.

Marks tell what was there *before*, so all triggers that read it run before the write: another trigger on the table,
say one that sets `updated_at`, may run first among those after it and would hide the older value. Only insert marks
are written after, because a rowid is not known sooner. A mark for a write that then does not happen is harmless.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from localstore.postgres.quoting import quote_identifier
from localstore.schema.sqlite import Affinity, Shape, ShapeIndex
from localstore.schema.tables import Table
from localstore.sqlite.marks import DELETE, FREE, INSERT, UPDATE


def trigger_prefix(table_id: int) -> str:
    """Return what the names of a table's triggers begin with."""
    return f"localstore_capture_{table_id}_"


def triggers(table_id: int, table: Table, shape: Shape) -> dict[str, str]:
    """Return the CREATE TRIGGER statements that capture a table, by trigger name.

    The text is compared with what the file holds, character by character, so it depends on the arguments alone.
    """
    return _Writer(table_id, table, shape).write()


class _Writer:
    def __init__(self, table_id: int, table: Table, shape: Shape) -> None:
        self.table_id = table_id
        self.table = table
        self.shape = shape
        self.name = quote_identifier(table.name)
        self.places = [place for place, column in enumerate(table.columns) if not column.computed]
        self.key_changed = self._any_changed(table.key)

    def write(self) -> dict[str, str]:
        found = dict(
            [
                self._trigger("insert", "AFTER INSERT", "", [self._key_mark(INSERT)]),
                self._trigger("insert_over", "BEFORE INSERT", "", list(self._victims())),
                self._trigger("delete", "BEFORE DELETE", "", [f"{self._delete_into} SELECT {self._whole_row('OLD')}"]),
                self._key_before(),
                self._key_after(),
            ]
        )
        found.update(
            self._update(place) for place in self.places if self.table.columns[place].name not in self.table.key
        )
        return found

    def _trigger(self, suffix: str, event: str, when: str, body: list[str]) -> tuple[str, str]:
        name = trigger_prefix(self.table_id) + suffix
        condition = f"\nWHEN {when}" if when else ""
        statements = "".join(f"\n  {statement};" for statement in body)
        head = f"CREATE TRIGGER {quote_identifier(name)} {event} ON {self.name}{condition}"
        return name, f"{head}\nBEGIN{statements}\nEND"

    def _update(self, place: int) -> tuple[str, str]:
        name = self.table.columns[place].name
        # `UPDATE t SET rowid = …` changes the column that is the rowid without naming it.
        event = "BEFORE UPDATE" if name == self.shape.rowid_alias else f"BEFORE UPDATE OF {quote_identifier(name)}"
        targets = ", ".join(f"v{number}" for number in range(1 + len(self.table.key)))
        values = ", ".join(f"OLD.{quote_identifier(column)}" for column in (name, *self.table.key))
        into = f"INSERT INTO localstore_marks (tbl, op, col, {targets})"
        mark = f"{into} VALUES ({self.table_id}, {UPDATE}, {place}, {values})"
        return self._trigger(f"update_{place}", event, self._changed(name), [mark])

    def _key_before(self) -> tuple[str, str]:
        watched = dict.fromkeys(self.table.key)
        for index in self._uniques():
            watched.update(dict.fromkeys(column for column in index.columns if column is not None))
        when = self._any_changed(watched)
        if self.shape.rowid is not None:
            when += f" OR OLD.{self.shape.rowid} IS NOT NEW.{self.shape.rowid}"
        old = f"{self._delete_into} SELECT {self._whole_row('OLD')} WHERE {self.key_changed}"
        same = self.shape.same_row(self.table.key, _column_of("r"), _column_of("NEW"))
        nobody = f"NOT EXISTS (SELECT 1 FROM {self.name} AS r WHERE {same})"
        free = f"{self._key_mark(FREE)} WHERE ({self.key_changed}) AND {nobody}"
        itself = f" AND r.{self.shape.rowid} IS NOT OLD.{self.shape.rowid}" if self.shape.rowid is not None else ""
        return self._trigger("key_before", "BEFORE UPDATE", when, [old, *self._victims(itself), free])

    def _key_after(self) -> tuple[str, str]:
        columns = ", ".join(quote_identifier(column) for column in self.table.key)
        event = "AFTER UPDATE" if self.shape.rowid_alias in self.table.key else f"AFTER UPDATE OF {columns}"
        return self._trigger("key_after", event, self.key_changed, [self._key_mark(INSERT)])

    def _key_mark(self, op: int) -> str:
        targets = ", ".join(f"v{number}" for number in range(len(self.table.key)))
        values = ", ".join(f"NEW.{quote_identifier(column)}" for column in self.table.key)
        return f"INSERT INTO localstore_marks (tbl, op, {targets}) SELECT {self.table_id}, {op}, {values}"

    @property
    def _delete_into(self) -> str:
        return f"INSERT INTO localstore_marks (tbl, op, {', '.join(f'v{place}' for place in self.places)})"

    def _whole_row(self, source: str) -> str:
        values = (f"{source}.{quote_identifier(self.table.columns[place].name)}" for place in self.places)
        return ", ".join((str(self.table_id), str(DELETE), *values))

    def _victims(self, exclusion: str = "") -> Iterable[str]:
        """Yield a mark for each row that the new row would push out if the statement says OR REPLACE."""
        select = f"{self._delete_into} SELECT {self._whole_row('r')} FROM {self.name} AS r WHERE"
        alias = self.shape.rowid_alias or self.shape.rowid
        if alias is not None:
            yield f"{select} r.{quote_identifier(alias)} = NEW.{quote_identifier(alias)}{exclusion}"
        for index in self._uniques():
            pairs = zip(index.columns, index.collations, strict=True)
            match = " AND ".join(self._match(column, collation) for column, collation in pairs if column is not None)
            yield f"{select} {match}{exclusion}"

    def _match(self, column: str, collation: str) -> str:
        name, new = quote_identifier(column), f"NEW.{quote_identifier(column)}"
        default = self.shape.by_name[column].default
        if default is not None and self.shape.by_name[column].not_null:
            # OR REPLACE puts the default in the place of a NULL that the column does not take, after this trigger.
            new = f"coalesce({new}, {default})"
        return f"r.{name} = {new} COLLATE {quote_identifier(collation)}"

    def _uniques(self) -> list[ShapeIndex]:
        return [index for index in self.shape.indexes if index.unique and index.plain]

    def _any_changed(self, columns: Iterable[str]) -> str:
        return " OR ".join(self._changed(column) for column in columns)

    def _changed(self, column: str) -> str:
        old, new = f"OLD.{quote_identifier(column)}", f"NEW.{quote_identifier(column)}"
        test = f"{old} IS NOT {new} COLLATE BINARY"
        if self.shape.by_name[column].affinity is Affinity.BLOB:
            # 1 and 1.0 compare equal; only a column without a type stores both as they are.
            test += f" OR typeof({old}) IS NOT typeof({new})"
        return test


def _column_of(source: str) -> Callable[[str], str]:
    return lambda name: f"{source}.{quote_identifier(name)}"
