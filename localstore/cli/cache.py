"""`localstore cache stats|clear`: what tenants have in their caches, and emptying them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import typer

from localstore.cache.backends import caches_at
from localstore.cache.interface import Cache
from localstore.cache.stats import CacheStats
from localstore.cli.options import DataOption, JsonOption, QuietOption, TenantsOption
from localstore.cli.output import report, run
from localstore.cli.store import open_store
from localstore.errors import CacheUnavailable
from localstore.identifiers import check_tenant_id

cache_app = typer.Typer(help="Look at tenants' caches and empty them.", no_args_is_help=True, rich_markup_mode=None)


def add_to(app: typer.Typer) -> None:
    """Add these commands to the root command."""
    app.add_typer(cache_app, name="cache")


@cache_app.command("stats")
def stats(
    data: DataOption = None, tenant: TenantsOption = None, json: JsonOption = False, quiet: QuietOption = False
) -> None:
    """Show what each tenant has in the cache, how often that helped, and what was given up for room."""

    async def work() -> list[dict[str, Any]]:
        async with _caches(data, tenant) as caches:
            found = [(name, await cache.stats()) for name, cache in caches]
        return [{"tenant": name, **_answered(name, one).to_json()} for name, one in found]

    entries = run(work(), json=json)

    def render() -> None:
        for entry in entries:
            limit = "no limit" if entry["bytes_max"] is None else f"at most {entry['bytes_max']:,}"
            size = f"{entry['entries']:,} entries, {entry['bytes']:,} bytes"
            print(f"{entry['tenant']} ({entry['backend']}): {size}, {limit}")
            print(f"  {entry['hits']:,} hits, {entry['misses']:,} misses, {entry['evictions']:,} evicted")
            if entry["memory"]:
                print(f"  the server uses {entry['memory']['used']:,} bytes; it evicts by {entry['memory']['policy']}")

    if json or not quiet:
        report({"version": 1, "tenants": entries, "exit": 0}, render, json)


@cache_app.command("clear")
def clear(
    data: DataOption = None, tenant: TenantsOption = None, json: JsonOption = False, quiet: QuietOption = False
) -> None:
    """Delete everything that tenants have in the cache; whatever needs it makes it again."""

    async def work() -> list[dict[str, Any]]:
        async with _caches(data, tenant) as caches:
            return [{"tenant": name, "deleted": await cache.clear()} for name, cache in caches]

    entries = run(work(), json=json)

    def render() -> None:
        for entry in entries:
            print(f"{entry['tenant']}: deleted {entry['deleted']:,} entries")

    if json or not quiet:
        report({"version": 1, "tenants": entries, "exit": 0}, render, json)


@asynccontextmanager
async def _caches(data: Path | None, tenants: list[str] | None) -> AsyncIterator[list[tuple[str, Cache]]]:
    """Give the caches of these tenants, else of all in the store; a tenant that is named needs no file here."""
    async with open_store(data) as store:
        if not tenants:
            await store.check()
        names = [check_tenant_id(name) for name in tenants] if tenants else await store.tenants()
        caches = caches_at(store.root, store.settings)
        try:
            yield [(name, caches.of(name)) for name in names]
        finally:
            await caches.close()


def _answered(tenant: str, found: CacheStats) -> CacheStats:
    if not found.available:
        raise CacheUnavailable(
            f"the cache of tenant {tenant} does not answer",
            hint="check REDIS_URL and its server, or the tenant's folder; until it answers it counts as empty",
            tenant=tenant,
        )
    return found
