"""From a store into the JSON layout, so that an import of it gives the same rows again.

A row that nobody edited becomes the very text that it was imported from. An edited row becomes that text with the
edited columns as top-level members, named in a member of their own; everything else in the text stays as it was.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from localstore.errors import ConfigurationError, LocalStoreError, TenantNotFound
from localstore.identifiers import is_identifier
from localstore.interchange import layout
from localstore.interchange.attachments import export_attachments
from localstore.interchange.compose import Composed, compose_item, compose_summary
from localstore.interchange.items import ARTICLE, PROGRESS, TICKET, ItemKind
from localstore.interchange.layout import Names, case_matters, write_document
from localstore.interchange.rows import CONVERSATION_ROWS, Row
from localstore.interchange.values import REPLACEMENT
from localstore.postgres.quoting import quote_identifier
from localstore.sqlite.database import Snapshot
from localstore.store import LocalStore

# Rows in memory at once.
PAGE_ROWS_MAX = 200

EXIT_DONE, EXIT_ERROR, EXIT_SKIPPED = 0, 1, 3


@dataclass(frozen=True, slots=True)
class Skipped:
    """A row that could not be exported, or not whole."""

    tenant: str
    row: str
    reason: str

    def to_json(self) -> dict[str, str]:
        """Return it as plain JSON values."""
        return {"tenant": self.tenant, "row": self.row, "reason": self.reason}


@dataclass(slots=True)
class TenantExport:
    """How many files were written for one tenant by folder, and the error that ended it early, if any."""

    tenant: str
    files: dict[str, int] = field(default_factory=dict)
    edited: int = 0
    error: LocalStoreError | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {
            "tenant": self.tenant,
            "files": self.files,
            "edited": self.edited,
            "error": self.error.to_json() if self.error else None,
        }


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What an export wrote, and the rows that it could not write."""

    tenants: tuple[TenantExport, ...]
    skipped: tuple[Skipped, ...]

    @property
    def exit_code(self) -> int:
        """Return 1 if a tenant failed, 3 if rows could not be written, else 0."""
        if any(tenant.error for tenant in self.tenants):
            return EXIT_ERROR
        return EXIT_SKIPPED if self.skipped else EXIT_DONE

    def to_json(self) -> dict[str, Any]:
        """Return the command's JSON."""
        return {
            "version": 1,
            "tenants": [tenant.to_json() for tenant in self.tenants],
            "skipped": [skipped.to_json() for skipped in self.skipped],
            "exit": self.exit_code,
        }


async def export_json(store: LocalStore, directory: Path, *, tenants: Collection[str] | None = None) -> ExportReport:
    """Write the JSON layout of all tenants, or of those in `tenants`, below `directory`.

    Each tenant's rows are read as of one moment, its attachments after them. Files that are there already are replaced;
    others are left alone.
    """
    await store.check()
    await asyncio.to_thread(_check_apart, directory, store.root)
    companies = await store.tenants()
    if missing := sorted(set(tenants or ()) - set(companies)):
        raise TenantNotFound(f"no tenant {', '.join(missing)} in {store.root}", hint="localstore tenants list")
    done: list[TenantExport] = []
    skipped: list[Skipped] = []
    for company in companies:
        if tenants and company not in tenants:
            continue
        outcome = TenantExport(company)
        done.append(outcome)
        try:
            async with (
                store.tenant(company, create=False) as tenant,
                tenant.database.snapshot() as snapshot,
            ):
                tables = {table.name for table in tenant.database.tables}
                await _Exporter(snapshot, directory / company, tables, outcome, skipped).run()

                def skip(key: str, reason: str, company: str = company) -> None:
                    skipped.append(Skipped(company, f"blobs/{key}", reason))

                if attachments := await export_attachments(tenant.blobs, directory / company, skip):
                    outcome.files[layout.ATTACHMENTS] = attachments
        except LocalStoreError as error:
            outcome.error = error
        except OSError as error:
            outcome.error = ConfigurationError(
                f"{error.filename or directory} cannot be written: {error.strerror}",
                hint="choose a directory with room that you may write to",
                tenant=company,
            )
    return ExportReport(tuple(done), tuple(skipped))


def _check_apart(directory: Path, root: Path) -> None:
    if directory.resolve().is_relative_to(root.resolve()):
        raise ConfigurationError(
            f"{directory} lies in the store {root}", hint="choose a directory outside of the store"
        )


class _Exporter:
    """Writes one tenant, page by page."""

    def __init__(
        self, snapshot: Snapshot, folder: Path, tables: set[str], outcome: TenantExport, skipped: list[Skipped]
    ) -> None:
        self._snapshot = snapshot
        self._folder = folder
        self._tables = tables
        self._outcome = outcome
        self._skipped = skipped
        self._company = outcome.tenant

    async def run(self) -> None:
        kinds = [kind for kind in (TICKET, ARTICLE, PROGRESS) if kind.rows.table.name in self._tables]
        platforms = await self._snapshot.run(lambda connection: _platforms(connection, kinds, self._company))
        for platform in platforms:
            if not is_identifier(platform):
                self._skip(platform, "", "the platform is not valid as a folder's name")
                continue
            summaries = await asyncio.to_thread(self._names, platform, layout.SUMMARIES)
            for kind in kinds:
                names = await asyncio.to_thread(self._names, platform, kind.folder)
                key = (self._company, platform)
                for span in await self._snapshot.run(partial(_spans, kind=kind, key=key)):
                    page = await self._snapshot.run(partial(_page, kind=kind, key=key, span=span))
                    await asyncio.to_thread(self._write, kind, platform, page, names, summaries)
        self._remove_empty()

    def _names(self, platform: str, kind: str) -> Names:
        folder = self._folder / platform / kind
        folder.mkdir(parents=True, exist_ok=True)
        return Names(case_matters=case_matters(folder))

    def _write(self, kind: ItemKind, platform: str, page: list[_Record], names: Names, summaries: Names) -> None:
        folder = self._folder / platform
        for record in page:
            if record.key_is_lost:
                self._skip(
                    kind.rows.table.name, f"{platform}/{record.row[kind.id_column]}", "its key is not valid UTF-8"
                )
                continue
            composed = compose_item(kind, record.row, record.conversations, names, embed_summary=record.shadowed)
            self._put(folder / kind.folder, kind.folder, composed)
            self._outcome.edited += composed.edited
            if composed.complaint:
                self._skip(kind.rows.table.name, f"{platform}/{composed.name}", composed.complaint)
            if kind is not PROGRESS and not record.shadowed:
                summary = compose_summary(kind, record.row, composed.summary, summaries)
                if summary is not None:
                    self._put(folder / layout.SUMMARIES, layout.SUMMARIES, summary)

    def _put(self, folder: Path, kind: str, composed: Composed) -> None:
        write_document(folder / f"{composed.name}.json", composed.text)
        self._outcome.files[kind] = self._outcome.files.get(kind, 0) + 1

    def _skip(self, table: str, row: str, reason: str) -> None:
        self._skipped.append(Skipped(self._company, f"{table}/{row}".rstrip("/"), reason))

    def _remove_empty(self) -> None:
        for folder in self._folder.glob("*/*"):
            if folder.name in layout.FOLDERS and not any(folder.iterdir()):
                folder.rmdir()


@dataclass(frozen=True, slots=True)
class _Record:
    """A row with its conversations.

    `shadowed` is an article whose id a ticket has too; `key_is_lost` a row whose key no text can name.
    """

    row: Row
    conversations: dict[str, Row]
    shadowed: bool = False
    key_is_lost: bool = False


def _platforms(connection: sqlite3.Connection, kinds: list[ItemKind], company: str) -> list[str]:
    found: set[str] = set()
    for kind in kinds:
        rows = connection.execute(f"SELECT DISTINCT platform FROM {kind.rows.name} WHERE company_id = ?", (company,))
        found.update(str(platform) for (platform,) in rows)
    return sorted(found)


def _spans(connection: sqlite3.Connection, *, kind: ItemKind, key: tuple[str, str]) -> list[tuple[bytes, bytes]]:
    """Return the first and last id of each page, as the bytes that are stored: they need not be valid UTF-8."""
    id_column = quote_identifier(kind.id_column)
    ids = [
        item_id
        for (item_id,) in connection.execute(
            f"SELECT CAST({id_column} AS BLOB) FROM {kind.rows.name} WHERE company_id = ? AND platform = ? "
            f"ORDER BY {id_column}",
            key,
        )
    ]
    return [(page[0], page[-1]) for page in (ids[at : at + PAGE_ROWS_MAX] for at in range(0, len(ids), PAGE_ROWS_MAX))]


def _page(
    connection: sqlite3.Connection, *, kind: ItemKind, key: tuple[str, str], span: tuple[bytes, bytes]
) -> list[_Record]:
    id_column = quote_identifier(kind.id_column)
    within = f"WHERE company_id = ? AND platform = ? AND {id_column} BETWEEN CAST(? AS TEXT) AND CAST(? AS TEXT)"
    conversations: dict[str, dict[str, Row]] = {}
    if kind is TICKET:
        order = "ORDER BY ticket_id, created_at, conversation_id"
        for row in CONVERSATION_ROWS.select(connection, f"{within} {order}", (*key, *span)):
            conversations.setdefault(row["ticket_id"], {})[row["conversation_id"]] = row
    records: list[_Record] = []
    for row in kind.rows.select(connection, f"{within} ORDER BY {id_column}", (*key, *span)):
        item_id = row[kind.id_column]
        shadowed = kind is ARTICLE and TICKET.rows.find(connection, (*key, item_id)) is not None
        lost = REPLACEMENT in item_id and kind.rows.find(connection, kind.key(key, item_id)) is None
        records.append(_Record(row, conversations.get(item_id, {}), shadowed, lost))
    return records
