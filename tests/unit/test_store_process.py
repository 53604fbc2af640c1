"""A store in processes that are killed, forked, or leave without closing anything."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sqlmodel import Field

from localstore import LocalStore, TenantModel

WRITER = """
import asyncio, sys
sys.path.insert(0, sys.argv[2])
from test_store_process import Line
from localstore import LocalStore

async def main():
    store = LocalStore(sys.argv[1], models=[Line])
    tenant = store.tenant("acme")

    async def write(worker):
        for number in range(1_000_000):
            if worker % 2:
                await tenant.put(Line(number=worker * 1_000_000 + number))
            else:
                async with tenant.session() as session:
                    session.add(Line(number=worker * 1_000_000 + number))
                    await session.commit()
            print(worker * 1_000_000 + number, flush=True)

    await asyncio.gather(*(write(worker) for worker in range(1, 6)))

asyncio.run(main())
"""

UNCLOSED = """
import asyncio, sys
sys.path.insert(0, sys.argv[2])
from test_store_process import Line
from localstore import LocalStore

async def main():
    tenant = LocalStore(sys.argv[1], models=[Line]).tenant("acme")
    await tenant.put_many([Line(number=number) for number in range(100)])
    asyncio.ensure_future(tenant.put(Line(number=1000)))

asyncio.run(main())
"""

FORKING = """
import asyncio, os, sys
sys.path.insert(0, sys.argv[2])
from test_store_process import Line
from localstore import LocalStore, StoreError

store = LocalStore(sys.argv[1], models=[Line])
async def busy():
    tenant = store.tenant("acme")
    await tenant.put(Line(number=1))
    # What threads are doing at the moment of the fork must not matter to the child.
    asyncio.ensure_future(tenant.put(Line(number=5)))
    asyncio.ensure_future(tenant.find(Line))
    await asyncio.sleep(0)

asyncio.run(busy())
child = os.fork()
if child == 0:
    try:
        asyncio.run(store.tenant("acme").put(Line(number=2)))
    except StoreError as error:
        asyncio.run(LocalStore(sys.argv[1], models=[Line]).tenant("acme").put(Line(number=3)))
        os._exit(7 if "parent" in str(error) else 8)
    os._exit(9)
status = os.waitpid(child, 0)[1]
asyncio.run(store.tenant("acme").put(Line(number=4)))
asyncio.run(store.close())
sys.exit(os.waitstatus_to_exitcode(status))
"""


class Line(TenantModel, table=True):
    """One numbered row."""

    __tablename__ = "process_lines"

    number: int = Field(index=True)


def command(script: str, root: Path) -> list[str]:
    """Return the command that runs `script` on a store."""
    return [sys.executable, "-W", "error", "-c", script, str(root), str(Path(__file__).parent)]


async def stored(root: Path) -> list[int]:
    """Return the numbers in the store."""
    async with LocalStore(root, models=[Line]) as store:
        return [line.number for line in await store.tenant("acme", create=False).find(Line, limit=None)]


@pytest.mark.parametrize("lines", [1, 40, 400])
def test_F1_what_was_acknowledged_before_a_kill_is_there_after_it(tmp_path: Path, lines: int) -> None:
    """SIGKILL in the middle of puts and sessions loses no acknowledged row, and the next command works at once."""
    process = subprocess.Popen(command(WRITER, tmp_path), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    acknowledged = [int(process.stdout.readline()) for _ in range(lines)]
    os.kill(process.pid, signal.SIGKILL)
    acknowledged += [int(line) for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    found = asyncio.run(stored(tmp_path))
    assert set(acknowledged) <= set(found)
    assert len(found) == len(set(found))


def test_a_store_that_nobody_closes_ends_with_its_process(tmp_path: Path) -> None:
    """It neither keeps the process alive, nor loses a commit, nor complains."""
    done = subprocess.run(command(UNCLOSED, tmp_path), capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert set(range(100)) <= set(asyncio.run(stored(tmp_path)))


def test_a_forked_child_uses_no_connection_of_its_parent(tmp_path: Path) -> None:
    """It is told to open the store anew, which works, and the parent is not disturbed."""
    done = subprocess.run(command(FORKING, tmp_path), capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (7, "")
    assert {1, 3, 4} <= set(asyncio.run(stored(tmp_path))) <= {1, 3, 4, 5}


def test_two_processes_write_one_tenant(tmp_path: Path) -> None:
    """They wait for each other; nothing is lost and nothing fails."""
    script = WRITER.replace("range(1_000_000)", "range(int(sys.argv[3]), int(sys.argv[3]) + 30)")
    processes = [
        subprocess.Popen([*command(script, tmp_path), str(start)], stdout=subprocess.PIPE, text=True)
        for start in (0, 1000)
    ]
    printed = [process.communicate(timeout=120)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert [len(lines) for lines in printed] == [150, 150]
    assert sorted(asyncio.run(stored(tmp_path))) == sorted(int(line) for lines in printed for line in lines)
