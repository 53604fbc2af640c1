"""A replica that has pushed for months: what its pushes read does not grow with what they have sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from localstore import LocalStore
from localstore.helpdesk.models import Ticket
from sync import SyncEngine, ledger

COMPANY = "acme"


async def test_a_push_reads_the_end_of_its_chain_and_the_whole_only_when_that_differs(
    production: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of eight batches the last one says that all are there; where production lost it, all are compared, and sent."""
    read: list[int] = []
    chain = ledger.chain

    async def counted(*arguments: Any) -> list[ledger.Entry]:
        entries = await chain(*arguments)
        read.append(len(entries))
        return entries

    monkeypatch.setattr("sync.ledger.chain", counted)
    async with LocalStore(tmp_path / "data") as store, SyncEngine(store, to=production) as engine:
        tenant = store.tenant(COMPANY)
        for number in range(8):
            await tenant.put(Ticket(company_id=COMPANY, platform="jira", ticket_id=str(number)))
            assert (await engine.push(promote=True)).exit_code == 0
        read.clear()
        assert (await engine.push(promote=True)).tenants[0].state == "unchanged"
        assert read
        assert set(read) == {1}
        async with (await engine.link()).connection() as connection:
            await connection.execute(
                "DELETE FROM localstore.ledger WHERE seq = 8; DELETE FROM localstore.undo; "
                "DELETE FROM tickets WHERE ticket_id = '7'"
            )
        read.clear()
        assert (await engine.push(promote=True)).exit_code == 0
        assert 7 in read
        assert all(found.equal for found in await engine.verify())
