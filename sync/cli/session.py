"""One command's work: which store and which production it needs, opened, used and closed again."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import stamina
import typer
from rich.console import Console

from localstore.cli.output import run
from localstore.config import Settings
from localstore.errors import NotAStore, PostgresUnavailable, TenantNotFound
from localstore.identifiers import check_tenant_id
from localstore.postgres.embedded import FOLDER
from localstore.store import LocalStore
from sync.access import EMBEDDED
from sync.config import SyncSettings
from sync.engine import SyncEngine
from sync.errors import NotPrepared
from sync.production import is_prepared

T = TypeVar("T")


class Needs(Enum):
    """What a command cannot do without."""

    STORE = auto()
    """The tenants' files."""
    PRODUCTION = auto()
    """Production; the tenants' files only where they are."""
    STAGED = auto()
    """The same, and whoever has files stages them first, in a production that this makes ready."""
    EITHER = auto()
    """Production if it is named, else the tenants' files."""
    NEW = auto()
    """Production; an embedded one may make the store's folder."""

    @property
    def asks_production(self) -> bool:
        """Return whether production alone is enough."""
        return self in (Needs.PRODUCTION, Needs.STAGED)


@dataclass(frozen=True, slots=True)
class Session:
    """What the options say. `tenants` is None for all of them."""

    data: Path | None = None
    to: str | None = None
    tenants: tuple[str, ...] | None = None
    settings: SyncSettings = field(default_factory=SyncSettings)
    json: bool = False
    quiet: bool = False

    def run(self, needs: Needs, doing: str, work: Callable[[SyncEngine], Awaitable[T]]) -> T:
        """Open what is needed, do the work, and return its result; what goes wrong ends the command."""
        # A retry that helps is nobody's concern, and one that does not ends in an error that says all.
        stamina.instrumentation.set_on_retry_hooks(())
        return run(self._work(needs, doing, work), json=self.json)

    def command(self, words: str, *, tenant: str | None = None) -> str:
        """Return a command that does `words` to the same store and production, fit to be typed; no password shows."""
        parts = ["localstore sync", words]
        if tenant is not None:
            parts.append(f"--tenant {tenant}")
        if self.to == EMBEDDED:
            parts.append("--to embedded")
        elif self.to is not None:
            parts.append("--to URL")
        if self.settings.target is not None:
            parts.append(f"--schema {shlex.quote(self.settings.target)}")
        if self.data is not None:
            parts.append(f"--data {shlex.quote(str(self.data))}")
        return " ".join(parts)

    async def _work(self, needs: Needs, doing: str, work: Callable[[SyncEngine], Awaitable[T]]) -> T:
        for tenant in self.tenants or ():
            check_tenant_id(tenant)
        settings = Settings.from_environment()
        async with LocalStore(self.data or settings.data_path, models=(), settings=settings) as store:
            here = await self._store(needs, store)
            try:
                return await self._serve(needs, here, doing, work, self.settings)
            except PostgresUnavailable:
                # A box on the road has DATABASE_URL set and no network: its files can say what they know.
                if needs is not Needs.EITHER or self.to is not None or here is None:
                    raise
            typer.echo("Production does not answer; this is what the tenants' files know.", err=True)
            return await self._serve(needs, here, doing, work, replace(self.settings, offline=True))

    async def _serve(
        self,
        needs: Needs,
        store: LocalStore | None,
        doing: str,
        work: Callable[[SyncEngine], Awaitable[T]],
        settings: SyncSettings,
    ) -> T:
        async with SyncEngine(store, to=self.to, settings=settings) as engine:
            with self._progress(doing):
                if needs.asks_production or (needs is Needs.EITHER and engine.has_production):
                    await self._check(needs, engine, store)
                return await work(engine)

    async def _store(self, needs: Needs, store: LocalStore) -> LocalStore | None:
        """Return the store where it is needed or there; a folder that is something else is refused."""
        if needs is Needs.NEW or (self.to == EMBEDDED and (store.root / FOLDER).is_dir()):
            return store
        named = self.to is not None or Settings.from_environment().database_url is not None
        alone = needs.asks_production or (needs is Needs.EITHER and named)
        try:
            await store.check()
        except NotAStore:
            # A reviewer's machine has no store; a folder full of something else was named by mistake.
            mistaken = self.data is not None and store.root.exists() and not _is_empty(store.root)
            if not alone or self.to == EMBEDDED or mistaken:
                raise
            return None
        return store

    async def _check(self, needs: Needs, engine: SyncEngine, store: LocalStore | None) -> None:
        """Refuse a production that was never prepared, and tenants that neither side knows."""
        local = set() if store is None else set(await store.tenants())
        missing = [tenant for tenant in self.tenants or () if tenant not in local]

        async def look(connection: asyncpg.Connection) -> set[str]:
            if await is_prepared(connection):
                rows = await connection.fetch(
                    "SELECT company_id FROM localstore.tenants WHERE company_id = ANY ($1)", missing
                )
                return {row["company_id"] for row in rows}
            if needs is Needs.STAGED and store is not None:
                return set()
            raise NotPrepared("the database was never prepared for sync", hint=self.command("init"))

        unknown = sorted(set(missing) - await (await engine.link()).run(look))
        if unknown:
            raise TenantNotFound(
                f"there is no tenant {', '.join(unknown)}, neither here nor in production",
                hint=self.command("log"),
                tenant=unknown[0],
            )

    def _progress(self, doing: str) -> Any:
        """Show on a terminal that something is under way."""
        if self.json or self.quiet or not sys.stderr.isatty():
            return nullcontext()
        return Console(stderr=True).status(f"{doing} …")


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and next(folder.iterdir(), None) is None
