"""What a pull has fetched, kept on disk until it is applied: for each key production's row, or that there is none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import orjson

from sync.verify.sorting import scratch


@dataclass(frozen=True, slots=True)
class Arrival:
    """One key that changed in production; `frame` is its row, None where it is gone.

    `unfit` says why the file cannot hold the row; `frame` then lacks what it cannot hold.
    """

    ident: str
    key: tuple[str, ...]
    frame: bytes | None
    unfit: str | None = None


class Incoming:
    """The arrivals of one pull, by table. `whole` are the tables of which every row was fetched."""

    def __init__(self) -> None:
        self._database = scratch()
        self._database.execute(
            "CREATE TABLE arrivals (tbl TEXT, ident TEXT, key BLOB, frame BLOB, unfit TEXT, PRIMARY KEY (tbl, ident))"
        )
        # Rows of the file that production never had: known only once the file is looked at.
        self._database.execute("CREATE TABLE fresh (tbl TEXT, ident TEXT, PRIMARY KEY (tbl, ident)) WITHOUT ROWID")
        self._database.execute("BEGIN")
        self.whole: set[str] = set()
        self.unreadable: list[tuple[str, tuple[str, ...], str]] = []

    def add(self, table: str, arrivals: Iterable[Arrival]) -> None:
        """Take arrivals; of a key that comes twice the first one counts."""
        self._database.executemany(
            "INSERT OR IGNORE INTO arrivals VALUES (?, ?, ?, ?, ?)",
            ((table, arrival.ident, orjson.dumps(arrival.key), arrival.frame, arrival.unfit) for arrival in arrivals),
        )

    def tables(self) -> set[str]:
        """Return the tables that have arrivals, and those that were fetched whole."""
        return self.whole | {row[0] for row in self._database.execute("SELECT DISTINCT tbl FROM arrivals")}

    def rows(self, table: str, *, present: bool) -> Iterator[Arrival]:
        """Yield a table's arrivals: those with a row, or those without."""
        test = "IS NOT NULL" if present else "IS NULL"
        for ident, key, frame, unfit in self._database.execute(
            f"SELECT ident, key, frame, unfit FROM arrivals WHERE tbl = ? AND frame {test}", (table,)
        ):
            yield Arrival(ident, tuple(orjson.loads(key)), frame, unfit)

    def get(self, table: str, ident: str) -> Arrival:
        """Return one arrival."""
        key, frame, unfit = self._database.execute(
            "SELECT key, frame, unfit FROM arrivals WHERE tbl = ? AND ident = ?", (table, ident)
        ).fetchone()
        return Arrival(ident, tuple(orjson.loads(key)), frame, unfit)

    def has(self, table: str, ident: str) -> bool:
        """Return whether the key arrived."""
        found = self._database.execute("SELECT 1 FROM arrivals WHERE tbl = ? AND ident = ?", (table, ident))
        return found.fetchone() is not None

    def set_fresh(self, table: str, idents: Iterable[str]) -> None:
        """Note which rows of the file production never had, in place of what was noted before."""
        self._database.execute("DELETE FROM fresh WHERE tbl = ?", (table,))
        self._database.executemany("INSERT OR IGNORE INTO fresh VALUES (?, ?)", ((table, ident) for ident in idents))

    def is_fresh(self, table: str, ident: str) -> bool:
        """Return whether production never had this row of the file."""
        found = self._database.execute("SELECT 1 FROM fresh WHERE tbl = ? AND ident = ?", (table, ident))
        return found.fetchone() is not None

    def count(self, table: str) -> int:
        """Return how many keys of a table arrived."""
        found: int = self._database.execute("SELECT count(*) FROM arrivals WHERE tbl = ?", (table,)).fetchone()[0]
        return found

    def close(self) -> None:
        """Forget everything."""
        self._database.close()


def addresses(keys: Sequence[tuple[str, tuple[str, ...]]]) -> dict[str, tuple[tuple[str, ...], ...]]:
    """Return keys by table."""
    found: dict[str, list[tuple[str, ...]]] = {}
    for table, key in keys:
        found.setdefault(table, []).append(key)
    return {table: tuple(those) for table, those in found.items()}
