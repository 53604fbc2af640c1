"""A production with three tables and two companies in it, and logins of every standing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import asyncpg
import pytest

from localstore.postgres.connect import Server, connection_to
from localstore.schema.tables import Column, ForeignKey, Index, Kind, Table
from sync.production import prepare, register

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
    return (TICKETS, COMMENTS, NOTES)


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


@pytest.fixture
async def world(production: str, superuser: asyncpg.Connection, tables: tuple[Table, ...]) -> World:
    """Give a production in which both companies have the same keys in every table, and something in every record."""
    await prepare(superuser)
    await register(superuser, "public", tables)
    for company in COMPANIES:
        await superuser.execute("INSERT INTO localstore.tenants (company_id) VALUES ($1)", company)
        await superuser.execute("INSERT INTO tickets VALUES ($1, '1', $1 || '@example.com', 'of ' || $1)", company)
        await superuser.execute("INSERT INTO comments VALUES ($1, '1', 1, 'of ' || $1)", company)
        await superuser.execute("INSERT INTO notes VALUES ($1, 1, '{}')", company)
        batch = await superuser.fetchval(
            """
            INSERT INTO localstore.ledger (batch, company_id, replica, epoch, seq, hash, target, state, manifest)
            VALUES (gen_random_uuid(), $1, gen_random_uuid(), 1, 1, 'h', 'public', 'staged', '{}') RETURNING batch
            """,
            company,
        )
        await superuser.execute("INSERT INTO localstore.chunks (batch, chunk, rows) VALUES ($1, 0, 1)", batch)
        await superuser.execute(
            "INSERT INTO localstore.undo (batch, company_id, tbl, fingerprint, op, key) "
            "VALUES ($1, $2, 'tickets', 'f', 'i', '{1}')",
            batch,
            company,
        )
        await superuser.execute(
            "INSERT INTO localstore.held (batch, ordinal, company_id, reason) VALUES ($1, 0, $2, 'value')",
            batch,
            company,
        )
        await superuser.execute(
            "INSERT INTO localstore.replicas (company_id, replica) VALUES ($1, gen_random_uuid())", company
        )
        await superuser.execute(
            "INSERT INTO localstore.followers (company_id, target, follower, position) VALUES ($1, 'public', 'f', '')",
            company,
        )
    await superuser.execute("ANALYZE")
    return World(production, tables, superuser)


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
