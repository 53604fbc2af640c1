"""Rows of blobs in production: read there as they were put, and keys that collide only where two boxes meet."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from localstore import LocalStore
from localstore.blobs.postgres_index import PostgresIndex
from localstore.postgres.connect import connection_to
from localstore.postgres.pool import Pool
from localstore.postgres.server import Server
from sync import SyncEngine
from tests.conftest import Login

if TYPE_CHECKING:
    from tests.contract.s3_server import S3Server

pytest_plugins = ["tests.contract.s3_server"]


@pytest.fixture(autouse=True)
def object_store(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let sync carry objects where rows are promoted."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)


@asynccontextmanager
async def box(folder: Path, production: str) -> AsyncIterator[tuple[LocalStore, SyncEngine]]:
    """Open a store and the engine that promotes it."""
    async with LocalStore(folder, models=()) as store, SyncEngine(store, to=production) as engine:
        yield store, engine


async def test_an_application_reads_in_production_what_was_put_in_the_file(
    production: str, login: Login, tmp_path: Path
) -> None:
    """A promoted row, read as app_user when production is the tenant's truth, is what the put returned."""
    async with box(tmp_path / "data", production) as (store, engine):
        info = await store.tenant("wedosoft").blobs.put(
            "지원/report.pdf", b"%PDF", metadata={"edition": 1, "of": {"b": 1.5, "a": None}}
        )
        assert (await engine.push(promote=True)).exit_code == 0
    async with connection_to(Server.parse(production)) as connection:
        await connection.execute("UPDATE localstore.tenants SET mode = 'postgresql'")
    pool = Pool(Server.parse(login("app_user")))
    assert await PostgresIndex("wedosoft", pool).list("", None, None) == [info]
    assert await PostgresIndex("another", pool).list("", None, None) == []
    await pool.close()


async def test_S1_keys_of_two_boxes_that_collide_meet_in_production(production: str, tmp_path: Path) -> None:
    """The second box's key that differs only in case is held with a reason; its other blobs go through."""
    async with box(tmp_path / "one", production) as (one, first), box(tmp_path / "two", production) as (two, second):
        await one.tenant("wedosoft").blobs.put("one", b"")
        assert (await first.push(promote=True)).exit_code == 0
        await second.pull(["wedosoft"])
        await one.tenant("wedosoft").blobs.put("Report.PDF", b"one's")
        await two.tenant("wedosoft").blobs.put("report.pdf", b"two's")
        await two.tenant("wedosoft").blobs.put("other", b"two's other")
        assert (await first.push(promote=True)).exit_code == 0
        assert (await second.push(promote=True)).exit_code == 3
        (held,) = await second.quarantine.list()
        assert (held.reason, held.key["key"]) == ("constraint", "report.pdf")
        async with connection_to(Server.parse(production)) as connection:
            keys = await connection.fetch('SELECT key FROM blobs ORDER BY key COLLATE "C"')
        assert [row["key"] for row in keys] == ["Report.PDF", "one", "other"]
