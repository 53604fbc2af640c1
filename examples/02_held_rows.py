"""What production cannot take: one bad ticket is held with a reason, the others go, and a correction brings it, too."""

from __future__ import annotations

import asyncio

from localstore import LocalStore, Ticket
from sync import SyncEngine


async def main() -> None:
    """Push a bad row among good ones, look at what was held, correct it, push again."""
    async with LocalStore("data") as store, store.tenant("acme") as tenant:
        good = Ticket(platform="freshdesk", ticket_id="1", title="The printer is on fire")
        bad = Ticket(platform="freshdesk", ticket_id="2", title="pasted from a terminal\0")
        await tenant.put_many([good, bad])
        async with SyncEngine(store, to="embedded") as engine:
            pushed = await engine.push(promote=True)
            print("pushed:", pushed.totals["inserted"], "inserted,", pushed.totals["quarantined"], "held")
            for item in await engine.quarantine.list():
                print("held:", item.address, item.column, item.reason)
                await engine.quarantine.fix(item.address, "title", "pasted from a terminal")
            pushed = await engine.push(promote=True)
            print("pushed:", pushed.totals["inserted"], "inserted,", pushed.totals["quarantined"], "held")


if __name__ == "__main__":
    asyncio.run(main())
