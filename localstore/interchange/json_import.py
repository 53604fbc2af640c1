"""From the JSON layout into a store: `<company>/<platform>/{tickets,knowledge_base,summaries}/<id>.json` and progress.

Files below `attachments/<ticket>/` become blobs.

An import only ever writes what the files changed since the import before: a file whose text is in the row already is
left alone, whatever was edited locally, and of a new payload only the columns that differ from the old one's are set.
So a second run writes nothing, and a run that was interrupted is simply repeated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from localstore.errors import ConfigurationError, LocalStoreError, NotAStore, TenantNotFound
from localstore.interchange import layout
from localstore.interchange.attachments import import_attachments
from localstore.interchange.document import BrokenDocument, parse
from localstore.interchange.items import ARTICLE, PROGRESS, TICKET, Counts, Item, ItemKind, read_item, save_items
from localstore.interchange.layout import Broken, Layout
from localstore.interchange.mapping import BadIdentifier
from localstore.interchange.summaries import SummaryItem, read_summary, save_summaries
from localstore.store import LocalStore
from localstore.tenant import Tenant

# Files in memory at once, and rows of one transaction: enough to spread a commit's cost, little enough that other
# writers wait for a few milliseconds only.
BATCH_FILES_MAX = 200

EXIT_DONE, EXIT_ERROR, EXIT_BROKEN = 0, 1, 3


@dataclass(slots=True)
class TenantImport:
    """What was imported for one tenant, and the error that ended it early, if any."""

    tenant: str
    tables: dict[str, Counts] = field(default_factory=dict)
    error: LocalStoreError | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {
            "tenant": self.tenant,
            "tables": {name: counts.to_json() for name, counts in self.tables.items()},
            "error": self.error.to_json() if self.error else None,
        }


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did, and the files that it could not take."""

    tenants: tuple[TenantImport, ...]
    broken: tuple[Broken, ...]

    @property
    def exit_code(self) -> int:
        """Return 1 if a tenant failed, 3 if files could not be taken, else 0."""
        if any(tenant.error for tenant in self.tenants):
            return EXIT_ERROR
        return EXIT_BROKEN if self.broken else EXIT_DONE

    def to_json(self) -> dict[str, Any]:
        """Return the command's JSON."""
        return {
            "version": 1,
            "tenants": [tenant.to_json() for tenant in self.tenants],
            "broken": [broken.to_json() for broken in self.broken],
            "exit": self.exit_code,
        }


async def import_json(store: LocalStore, directory: Path, *, tenants: Collection[str] | None = None) -> ImportReport:
    """Import the JSON layout below `directory`, of all companies or of those in `tenants`.

    What cannot be read is listed and never stops the rest; a tenant that fails does not stop the others.
    """
    files = Layout(directory)
    companies = await asyncio.to_thread(_companies, files, tenants)
    moment = datetime.now(UTC)
    done: list[TenantImport] = []
    for company in companies:
        outcome = TenantImport(company)
        done.append(outcome)
        try:
            async with store.tenant(company) as tenant:
                await _import_tenant(tenant, files, outcome, moment)
        except LocalStoreError as error:
            outcome.error = error
    return ImportReport(tuple(done), tuple(sorted(files.broken, key=lambda broken: broken.path)))


def _companies(files: Layout, tenants: Collection[str] | None) -> list[str]:
    if not files.root.is_dir():
        raise NotAStore(f"{files.root} is not a directory", hint="name the directory that holds <company>/<platform>/")
    companies = files.companies()
    if missing := sorted(set(tenants or ()) - set(companies)):
        raise TenantNotFound(
            f"{files.root} holds nothing of {', '.join(missing)}",
            hint=f"choose from: {', '.join(companies)}" if companies else "look into the directory",
        )
    if not companies and not files.broken:
        raise ConfigurationError(
            f"{files.root} holds no <company>/<platform>/{{{','.join(layout.FOLDERS)}}}",
            hint="name the directory above the companies' folders",
        )
    return [company for company in companies if not tenants or company in tenants]


async def _import_tenant(tenant: Tenant, files: Layout, outcome: TenantImport, moment: datetime) -> None:
    known = {table.name for table in tenant.database.tables}
    if missing := sorted({"tickets", "conversations", "knowledge_base", "processing_progress"} - known):
        raise ConfigurationError(
            f"the store was opened without the tables {', '.join(missing)}",
            hint="open it with the help desk's models, or with models=None",
            tenant=tenant.id,
        )
    for platform in files.platforms(tenant.id):
        key = (tenant.id, platform)
        for kind in (TICKET, ARTICLE):
            await _import_items(tenant, files, kind, key, outcome, moment)
        await _import_summaries(tenant, files, key, outcome)
        await _import_items(tenant, files, PROGRESS, key, outcome, moment)
        attachments = await import_attachments(tenant.blobs, files, *key)
        if attachments != Counts():
            outcome.tables.setdefault(layout.ATTACHMENTS, Counts()).add(attachments)


async def _import_items(
    tenant: Tenant, files: Layout, kind: ItemKind, key: tuple[str, str], outcome: TenantImport, moment: datetime
) -> None:
    seen: dict[str, str] = {}
    for paths in _batches(files.files(*key, kind.folder)):
        items = await asyncio.to_thread(_read_items, files, kind, key[1], paths, seen)
        saved = await save_items(tenant.database, kind, key, items, moment)
        for name, counts in saved.items():
            outcome.tables.setdefault(name, Counts()).add(counts)


async def _import_summaries(tenant: Tenant, files: Layout, key: tuple[str, str], outcome: TenantImport) -> None:
    seen: dict[str, str] = {}
    for paths in _batches(files.files(*key, layout.SUMMARIES)):
        items = await asyncio.to_thread(_read_summaries, files, paths, seen)
        counts, orphans = await save_summaries(tenant.database, key, items)
        outcome.tables.setdefault(layout.SUMMARIES, Counts()).add(counts)
        for item in orphans:
            files.refuse(item.path, f"an orphaned summary: there is no ticket or article {item.item_id}")


def _batches(paths: list[Path]) -> Iterator[list[Path]]:
    remaining = iter(paths)
    while batch := list(islice(remaining, BATCH_FILES_MAX)):
        yield batch


def _read_items(files: Layout, kind: ItemKind, platform: str, paths: list[Path], seen: dict[str, str]) -> list[Item]:
    items: list[Item] = []
    for path in paths:
        try:
            text = files.read(path)
            item = read_item(kind, platform, path, text, parse(text))
            _take(seen, item.item_id, path)
        except (BrokenDocument, BadIdentifier) as error:
            files.refuse(path, str(error))
        else:
            items.append(item)
    return items


def _read_summaries(files: Layout, paths: list[Path], seen: dict[str, str]) -> list[SummaryItem]:
    items: list[SummaryItem] = []
    for path in paths:
        try:
            text = files.read(path)
            item = read_summary(path, text, parse(text))
            _take(seen, item.item_id, path)
        except (BrokenDocument, BadIdentifier) as error:
            files.refuse(path, str(error))
        else:
            items.append(item)
    return items


def _take(seen: dict[str, str], item_id: str, path: Path) -> None:
    if item_id in seen:
        raise BadIdentifier(f"has the same id as {seen[item_id]}: {item_id}")
    seen[item_id] = path.name
