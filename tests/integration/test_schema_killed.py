"""Claims about a schema change that is killed: every file is the old one or the new one, and the next run finishes."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from localstore import LocalStore
from localstore.sqlite import capture
from localstore.sqlite.backup import FOLDER, backups, check_backup
from tests.forked import be_command, processes
from tests.integration.command import command, environment

TENANTS = 6
ROWS = 400

OLD = """
from typing import Any, ClassVar
from localstore.models import TenantModel

class Row(TenantModel, table=True):
    __tablename__: ClassVar[Any] = "killed_rows"
    text: str
    price: int
"""
NEW = OLD.replace("price: int", "price: int | None = None\n    stars: int | None = None\n    kind: str = 'plain'")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder with a store of tenants of the old shape, and the models of both."""
    (tmp_path / "old_models.py").write_text(OLD)
    (tmp_path / "new_models.py").write_text(NEW)
    make = (
        "import asyncio\nfrom localstore import LocalStore\nfrom old_models import Row\n"
        "async def main():\n"
        "    async with LocalStore('data', models=[Row]) as store:\n"
        f"        for n in range({TENANTS}):\n"
        f"            rows = [Row(text='x' * 200, price=i) for i in range({ROWS})]\n"
        "            await store.tenant(f't{n:02}').put_many(rows)\n"
        "asyncio.run(main())\n"
    )
    subprocess.run([sys.executable, "-c", make], cwd=tmp_path, check=True, env=environment(PYTHONPATH=paths(tmp_path)))
    return tmp_path


def paths(folder: Path) -> str:
    """Return where a process finds the models and the packages."""
    return os.pathsep.join((str(folder), *filter(None, sys.path)))


def shape(folder: Path, tenant: str) -> str:
    """Return `old` or `new`; a file that is anything in between fails."""
    with closing(sqlite3.connect(folder / "data" / tenant / "store.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        columns = {row[1]: row[3] for row in connection.execute("PRAGMA table_info(killed_rows)")}
        assert connection.execute("SELECT count(*), sum(price) FROM killed_rows").fetchone() == (
            ROWS,
            ROWS * (ROWS - 1) // 2,
        )
        assert capture.check(connection) == []
        leftovers = connection.execute("SELECT name FROM sqlite_schema WHERE name LIKE '%alembic%'").fetchall()
        assert leftovers == []
    added = {"stars", "kind"} & columns.keys()
    is_new = (added == {"stars", "kind"}, columns["price"] == 0)
    assert is_new in ((True, True), (False, False)), columns
    return "new" if is_new[0] else "old"


async def test_a_killed_apply_leaves_each_file_old_or_new(folder: Path) -> None:
    """SIGKILL after ever more of the files are done: none is ever in between, and the next run does the rest."""
    arguments = ["schema", "apply", "--models", "new_models", "--data", "data", "--concurrency", "2"]
    tenants = [f"t{number:02}" for number in range(TENANTS)]
    out = folder / "printed"
    seen: list[int] = []
    kills = 0
    while not seen or seen[-1] < TENANTS:
        process = processes.Process(target=be_command, args=(arguments, environment(), folder, out, out))
        process.start()
        assert process.pid is not None
        # Kill it as soon as one more backup is there than before: its file is then about to change, or just has.
        made = sum(len(list((folder / "data" / tenant / FOLDER).glob("*.json"))) for tenant in tenants)
        while process.is_alive():
            now = sum(len(list((folder / "data" / tenant / FOLDER).glob("*.json"))) for tenant in tenants)
            if now > made + len(seen) % 3:
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.001)
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL), out.read_text()
        shapes = [shape(folder, tenant) for tenant in tenants]
        seen.append(shapes.count("new"))
        assert seen == sorted(seen)
        assert len(seen) < 10 * TENANTS
    assert kills > 0
    assert command(*arguments, cwd=folder).code == 0
    async with LocalStore(folder / "data", models=()) as store:
        assert await store.tenants() == tenants
    for tenant in tenants:
        for backup in backups(folder / "data" / tenant / FOLDER):
            check_backup(backup.path, tenant)
