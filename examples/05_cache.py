"""A value that is made from rows, kept, and made again only when a row has changed."""

from __future__ import annotations

import asyncio

from localstore import LocalStore, Tenant, TenantModel, cached


class Note(TenantModel, table=True):
    """A note of one tenant."""

    text: str


@cached(tables=(Note,))
async def words(tenant: Tenant) -> int:
    """Count the words of all notes."""
    print("counting")
    return sum(len(note.text.split()) for note in await tenant.find(Note, limit=None))


async def main() -> None:
    """Count three times, twice over the same rows; then keep what no row tells."""
    async with LocalStore("data", models=[Note]) as store, store.tenant("wedosoft") as tenant:
        await tenant.put(Note(text="written on a train"))
        print("words:", await words(tenant), await words(tenant))
        await tenant.put(Note(text="written offline"))
        print("words:", await words(tenant))
        print("visits:", await tenant.cache.incr("visits", ttl=3600), await tenant.cache.incr("visits"))
        stats = await tenant.cache.stats()
        print("hits and misses:", stats.hits, stats.misses)


if __name__ == "__main__":
    asyncio.run(main())
