"""Claims about an error that nobody expected: it is one tenant's result, and the others are served."""

from __future__ import annotations

from pathlib import Path

import pytest

from localstore import LocalStore
from localstore.evolution import Evolution
from localstore.sqlite.database import Database
from localstore.sqlite.prepare import Models
from sync import SyncEngine
from sync.cli.standing import read_all
from sync.cli.verified import check_all
from sync.results import TenantResult
from sync.status import Status
from sync.verify.differences import Verified
from tests.integration.test_schema_filled import Filled

MESSAGE = "unexpected RuntimeError: of postgresql://…@db/app"


def fail(tenant: str) -> None:
    """Raise what no code of ours raises, for one tenant."""
    if tenant == "bad":
        raise RuntimeError("of postgresql://user:secret@db/app")


class Failing(SyncEngine):
    """An engine with a fault."""

    async def verify(self, tenants: object = None, *, repair: bool = False) -> list[Verified]:
        """Verify nothing, and fail for one tenant."""
        assert isinstance(tenants, list)
        assert not repair
        fail(tenants[0])
        return [Verified(tenants[0], {})]

    async def status(self, tenants: object = None) -> Status:
        """Read nothing, and fail for one tenant."""
        assert isinstance(tenants, list)
        fail(tenants[0])
        return Status(())


async def test_every_command_goes_on_with_the_others() -> None:
    """What goes through `each`, verify and status alike; no password is told."""
    engine = Failing()

    async def work(tenant: str) -> TenantResult:
        fail(tenant)
        return TenantResult(tenant, "pulled")

    result = await engine.each(["one", "bad", "two"], work)
    assert [tenant.state for tenant in result.tenants] == ["pulled", "failed", "pulled"]
    assert (result.exit_code, result.tenants[1].failure and result.tenants[1].failure.message) == (1, MESSAGE)
    compared = await check_all(engine, ["one", "bad", "two"])
    assert [tenant.tenant for tenant in compared.tenants] == ["one", "two"]
    assert [(tenant, why.code, why.message) for tenant, why in compared.failures] == [("bad", "unexpected", MESSAGE)]
    assert compared.exit_code == 1
    assert [tenant for tenant, _ in (await read_all(engine, ["one", "bad"])).failures] == ["bad"]


async def test_a_schema_change_goes_on_with_the_others(tmp_path: Path) -> None:
    """Each file is changed by itself; the one that failed is as it was."""

    async def before(database: Database) -> None:
        fail(database.company_id)

    async with LocalStore(tmp_path / "data", models=()) as store:
        for tenant in ("bad", "good"):
            await store.create_tenant(tenant)
        change = await Evolution(store, Models((Filled,)), before=(before,)).apply()
    assert [(tenant.tenant, tenant.state) for tenant in change.tenants] == [("bad", "failed"), ("good", "changed")]
    assert change.exit_code == 1


async def test_a_traceback_is_printed_where_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever looks for the cause sees where it happened, although the command goes on."""
    monkeypatch.setenv("LOCALSTORE_TRACEBACK", "1")
    await check_all(Failing(), ["bad"])
    assert "in fail" in capsys.readouterr().err
