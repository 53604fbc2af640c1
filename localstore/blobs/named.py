"""Which objects the rows of a copied file name, read without a model and without leaving anything beside the copy."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from localstore.blobs.table import hash_place
from localstore.sqlite.layout import read_catalogue

_NAMED: Final = """
SELECT CAST(hash AS TEXT), min(CAST(key AS TEXT)) FROM blobs
WHERE company_id = ? AND hash IS NOT NULL GROUP BY 1 ORDER BY 1
"""


@dataclass(frozen=True, slots=True)
class NamedObject:
    """An object, and one of the keys of the blobs whose bytes it holds."""

    hash: str
    key: str


@dataclass(frozen=True, slots=True)
class Missing:
    """An object that rows name and that could not be had, one of their keys, and why."""

    hash: str
    key: str
    why: str

    def to_json(self) -> dict[str, str]:
        """Return it as plain values."""
        return asdict(self)


def named_objects(copy: Path, company_id: str) -> list[NamedObject]:
    """Return the objects that the blobs in a copy of the tenant's file name, by hash."""
    uri = copy.absolute().as_uri() + "?mode=ro&immutable=1"
    with closing(sqlite3.connect(uri, uri=True)) as connection:
        # Hashes and keys are looked at as they are, whoever wrote them.
        connection.text_factory = lambda text: text.decode(errors="replace")
        # An application may have a table of that name which holds something else.
        if all(hash_place(entry.table) is None for entry in read_catalogue(connection)):
            return []
        return [NamedObject(digest, key or "") for digest, key in connection.execute(_NAMED, (company_id,))]
