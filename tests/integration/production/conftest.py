"""A production with three tables and two companies in it, and logins of every standing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import asyncpg
import pytest

from localstore.postgres.connect import Server, connection_to
from localstore.schema.tables import Column, ForeignKey, Index, Kind, Table
from sync.production import prepare, register
from tests.conftest import database_like

Connect = Callable[[str], Awaitable[asyncpg.Connection]]


def text(name: str, *, nullable: bool = True) -> Column:
    """Return a text column."""
    return Column(name, Kind.TEXT, nullable)


TICKETS = Table(
    name="tickets",
    columns=(text("company_id", nullable=False), text("ticket_id", nullable=False), text("email"), text("title")),
    key=("company_id", "ticket_id"),
    uniques=(("email",),),
    indexes=(Index("by_title", ("title",)),),
)
COMMENTS = Table(
    name="comments",
    columns=(
        text("company_id", nullable=False),
        text("ticket_id"),
        Column("number", Kind.INTEGER, nullable=False),
        text("body"),
    ),
    key=("company_id", "number"),
    foreign_keys=(ForeignKey(("company_id", "ticket_id"), "tickets", ("company_id", "ticket_id"), "CASCADE"),),
)
NOTES = Table(
    name="notes",
    columns=(Column("number", Kind.INTEGER, nullable=False), Column("raw", Kind.JSON)),
    key=("number",),
    has_company=False,
)
TABLES = (TICKETS, COMMENTS, NOTES)
COMPANIES = ("alpha", "beta")


@dataclass(frozen=True, slots=True)
class World:
    """A prepared production: its URL, its registered tables, and a superuser's connection."""

    url: str
    tables: tuple[Table, ...]
    owner: asyncpg.Connection


@pytest.fixture
def tables() -> tuple[Table, ...]:
    """Give the three shapes: with a company column, referring to it, and without one."""
    return TABLES


@pytest.fixture
async def connected() -> AsyncIterator[Connect]:
    """Give a function that connects to a URL; all its connections are closed after the test."""
    async with AsyncExitStack() as stack:

        async def connect(url: str) -> asyncpg.Connection:
            return await stack.enter_async_context(connection_to(Server.parse(url)))

        yield connect


@pytest.fixture
async def superuser(production: str, connected: Connect) -> asyncpg.Connection:
    """Give a superuser's connection to an empty database."""
    return await connected(production)


@pytest.fixture(scope="session")
def filled(postgres_server: Server) -> Iterator[str]:
    """Name a database with both companies' rows, which every world is a copy of: to fill each would take longer."""
    with database_like(postgres_server) as database, ThreadPoolExecutor(1) as thread:

        async def make() -> None:
            async with connection_to(database) as owner:
                await _fill(owner)

        thread.submit(lambda: asyncio.run(make())).result()
        yield str(database.database)


async def _fill(owner: asyncpg.Connection) -> None:
    await prepare(owner)
    await register(owner, "public", TABLES)
    for company in COMPANIES:
        await owner.execute("INSERT INTO localstore.tenants (company_id) VALUES ($1)", company)
        await owner.execute("INSERT INTO tickets VALUES ($1, '1', $1 || '@example.com', 'of ' || $1)", company)
        await owner.execute("INSERT INTO comments VALUES ($1, '1', 1, 'of ' || $1)", company)
        await owner.execute("INSERT INTO notes VALUES ($1, 1, '{}')", company)
        batch = await owner.fetchval(
            """
            INSERT INTO localstore.ledger (batch, company_id, replica, epoch, seq, hash, target, state, manifest)
            VALUES (gen_random_uuid(), $1, gen_random_uuid(), 1, 1, 'h', 'public', 'staged', '{}') RETURNING batch
            """,
            company,
        )
        await owner.execute("INSERT INTO localstore.chunks (batch, chunk, rows) VALUES ($1, 0, 1)", batch)
        await owner.execute(
            "INSERT INTO localstore.undo (batch, company_id, tbl, fingerprint, op, key) "
            "VALUES ($1, $2, 'tickets', 'f', 'i', '{1}')",
            batch,
            company,
        )
        await owner.execute(
            "INSERT INTO localstore.held (batch, ordinal, company_id, reason) VALUES ($1, 0, $2, 'value')",
            batch,
            company,
        )
        await owner.execute("INSERT INTO localstore.objects (company_id, hash, size) VALUES ($1, 'ab', 1)", company)
        await owner.execute(
            "INSERT INTO localstore.replicas (company_id, replica) VALUES ($1, gen_random_uuid())", company
        )
        await owner.execute(
            "INSERT INTO localstore.followers (company_id, target, follower, position) VALUES ($1, 'public', 'f', '')",
            company,
        )
    await owner.execute("ANALYZE")


@pytest.fixture
def production(request: pytest.FixtureRequest, postgres_server: Server) -> Iterator[str]:
    """Return the URL of a database, with a superuser's login: empty, or filled where the test is about a world."""
    template = request.getfixturevalue("filled") if "world" in request.fixturenames else "template0"
    with database_like(postgres_server, template) as database:
        yield database.url


@pytest.fixture
def world(production: str, superuser: asyncpg.Connection) -> World:
    """Give a production in which both companies have the same keys in every table, and something in every record."""
    return World(production, TABLES, superuser)


@asynccontextmanager
async def acting(connection: asyncpg.Connection, company: str | None, role: str = "") -> AsyncIterator[None]:
    """Run a block in a transaction for a company, and as a role, then undo what it did."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        if role:
            await connection.execute(f"SET LOCAL ROLE {role}")
        if company is not None:
            await connection.execute("SELECT set_config('app.current_company_id', $1, true)", company)
        yield
    finally:
        await transaction.rollback()


@pytest.fixture
def act() -> Callable[..., object]:
    """Give `acting`."""
    return acting
