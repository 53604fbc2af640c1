"""What all tests share: a real PostgreSQL of our own, fresh databases and logins on it, the real data where present."""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest
from hypothesis import settings

from localstore.models import tenant_models
from localstore.postgres.binaries import Binaries, installed, unprivileged_account
from localstore.postgres.cluster import HOST, SUPERUSER, Cluster
from localstore.postgres.connect import Server, close, connect, connection_to
from localstore.postgres.quoting import quote_identifier, quote_literal

# On a laptop every run tries other stories; CI tries the same ones each time, so that what it says of a change is about
# the change. What a laptop finds becomes a test of its own.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

REPOSITORY = Path(__file__).resolve().parent.parent

# Nothing in a test's server outlives the run, so nothing has to reach the disk; and a copied database is written to its
# files at once, which is the less work the fewer pages are held back.
FLEETING = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "max_connections": "60",
    "shared_buffers": "64MB",
    "max_wal_size": "256MB",
}

MEMORY = Path("/dev/shm")
MEMORY_BYTES_MIN = 3 * 1024**3  # Two workers' servers and folders need less than half of it.

NO_DATA = "no real help-desk data on this machine (LOCALSTORE_TEST_DATA names its folder)"

Login = Callable[..., str]
"""Make a login on the production database: `login(*roles, password=None, superuser=False) -> URL`."""


def keep_files_in_memory() -> None:
    """Let all temporary files of the run lie in memory where it has the room: half of a run on disk is waiting for it.

    A TMPDIR that is set already stays. Workers and the commands that tests start inherit it.
    """
    if "TMPDIR" in os.environ or not os.access(MEMORY, os.W_OK | os.X_OK):
        return
    programs_run = not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC
    if programs_run and shutil.disk_usage(MEMORY).free >= MEMORY_BYTES_MIN:
        os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)


keep_files_in_memory()


@pytest.fixture(autouse=True)
def only_models_of_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep models that some test made inside a function out of the stores of all others in the same process."""

    def of_modules() -> Iterator[type]:
        return (model for model in tenant_models() if vars(sys.modules[model.__module__]).get(model.__name__) is model)

    monkeypatch.setattr("localstore.store.tenant_models", of_modules)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """Run a PostgreSQL of our own until the tests end: 18 unless LOCALSTORE_TEST_POSTGRES says 16 or system."""
    folder = Path(tempfile.mkdtemp(prefix="localstore-test-"))
    password = secrets.token_urlsafe(24)
    cluster = Cluster(folder, _binaries(os.environ.get("LOCALSTORE_TEST_POSTGRES", "18")))
    # The server's keeper stops it and removes the folder as soon as this lock is gone, even after a SIGKILL.
    users = os.open(folder / "users.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(users, fcntl.LOCK_SH)
    try:
        cluster.create(password, durable=False)
        port = cluster.start(users=folder / "users.lock", remove=True, settings=FLEETING)
        yield Server(hosts=(HOST,), ports=(port,), user=SUPERUSER, password=password, database="postgres")
    finally:
        cluster.stop(fast=False)
        os.close(users)
        _remove(folder)


@pytest.fixture
def production(postgres_server: Server) -> Iterator[str]:
    """Return the URL of a fresh, empty database, with a superuser's login; it is dropped after the test."""
    with database_like(postgres_server) as database:
        yield database.url


@contextmanager
def database_like(server: Server, template: str = "template0") -> Iterator[Server]:
    """Make a database that is a copy of another one, to which nobody is connected, until the end of the block."""
    name = f"production_{secrets.token_hex(6)}"
    copied = f"TEMPLATE {quote_identifier(template)} STRATEGY file_copy"
    run_sql(server, f"CREATE DATABASE {quote_identifier(name)} {copied}")
    yield server.with_database(name)
    run_sql(server, f"DROP DATABASE {quote_identifier(name)} WITH (FORCE)")


@pytest.fixture
def login(postgres_server: Server, production: str) -> Iterator[Login]:
    """Return a function that makes a LOGIN role, a member of the roles named, and returns its URL on `production`."""
    server = Server.parse(production)
    made: list[str] = []

    def make(*roles: str, password: str | None = None, superuser: bool = False, name: str | None = None) -> str:
        name = name or f"login_{secrets.token_hex(6)}"
        secret = secrets.token_urlsafe(18) if password is None else password
        kind = "SUPERUSER" if superuser else "NOSUPERUSER"
        statements = [f"CREATE ROLE {quote_identifier(name)} LOGIN {kind} PASSWORD {quote_literal(secret)}"]
        statements += [f"GRANT {quote_identifier(role)} TO {quote_identifier(name)}" for role in roles]
        made.append(name)
        run_sql(server, *statements)
        return server.with_login(name, secret).url

    yield make
    for name in made:
        run_sql(server, f"DROP OWNED BY {quote_identifier(name)} CASCADE")
        # Nothing in another database of the run belongs to this login, so the role itself can go.
        run_sql(postgres_server, f"DROP ROLE {quote_identifier(name)}")


@pytest.fixture(scope="session")
def pgvector(postgres_server: Server) -> None:
    """Leave a test out where the server does not carry pgvector; the wheel's always does."""

    async def carried() -> bool:
        async with connection_to(postgres_server) as connection:
            return bool(await connection.fetchval("SELECT 1 FROM pg_available_extensions WHERE name = 'vector'"))

    with ThreadPoolExecutor(1) as thread:
        if not thread.submit(lambda: asyncio.run(carried())).result():
            pytest.skip("this PostgreSQL does not carry pgvector")


@pytest.fixture(scope="session")
def helpdesk_data() -> Path:
    """Return the folder of real help-desk data, or skip where this machine has none."""
    named = os.environ.get("LOCALSTORE_TEST_DATA")
    root = Path(named) if named else REPOSITORY.parent / "shared" / "data"
    folder = root if root.name == "helpdesk" else root / "helpdesk"
    if not folder.is_dir():
        pytest.skip(NO_DATA)
    return folder


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run in CI that left a test out: a skipped test claims nothing. Only the real data may be missing."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if not os.environ.get("CI") or reporter is None or hasattr(session.config, "workerinput"):
        return
    left_out = [report for report in reporter.stats.get("skipped", []) if NO_DATA not in str(report.longrepr)]
    for report in left_out:
        reporter.write_line(f"left out, which fails the run in CI: {report.nodeid}", red=True)
    if left_out and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def run_sql(server: Server, *statements: str) -> None:
    """Run statements one by one on a connection of their own, outside the test's event loop."""

    async def run() -> None:
        connection: asyncpg.Connection = await connect(server, application_name="localstore tests")
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await close(connection)

    # A thread of its own, because a test that asks for a login runs in an event loop already.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(lambda: asyncio.run(run())).result()


def _binaries(version: str) -> Binaries:
    if version != "system":
        return installed(int(version))
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: float(path.parts[-3]))
    if not found:
        pytest.fail("LOCALSTORE_TEST_POSTGRES=system, but there is no /usr/lib/postgresql/*/bin/postgres")
    return Binaries(found[-1].parent, unprivileged_account())


def _remove(folder: Path) -> None:
    """Remove the folder together with the keeper, which is at it, too."""
    deadline = time.monotonic() + 20
    while folder.exists() and time.monotonic() < deadline:
        shutil.rmtree(folder, ignore_errors=True)
