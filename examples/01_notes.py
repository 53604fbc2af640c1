"""A model of one's own: written offline in two ways, planned, promoted, and taken back."""

from __future__ import annotations

import asyncio

from localstore import LocalStore, TenantModel
from sync import SyncEngine


class Note(TenantModel, table=True):
    """A note of a tenant; id, company_id and the times come with TenantModel."""

    text: str


async def main() -> None:
    """Write, plan, promote, roll back."""
    async with LocalStore("data", models=[Note]) as store, store.tenant("wedosoft") as tenant:
        await tenant.put(Note(text="written on a train"))
        async with tenant.session() as session:
            session.add(Note(text="through SQLModel"))
            await session.commit()
        async with SyncEngine(store, to="embedded") as engine:
            plan = await engine.plan()
            print("planned:", plan.result.totals)
            batch = (await engine.promote(plan)).tenants[0].batch
            print("promoted:", (await engine.verify())[0].equal)
            if batch is not None:
                print("taken back:", (await engine.rollback(batch)).totals["deleted"], "rows")
        print("still here:", len(await tenant.find(Note)), "notes")


if __name__ == "__main__":
    asyncio.run(main())
