"""`localstore demo`: the main job on a store of its own, from offline writes to a rollback, a line a step."""

from __future__ import annotations

import asyncio
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from typing import Annotated

import asyncpg
import typer
from rich.console import Console

from localstore.cli.options import DataOption
from localstore.cli.output import run
from localstore.errors import ConfigurationError
from localstore.helpdesk.generate import generate
from localstore.helpdesk.models import Conversation, Ticket
from localstore.interchange.json_import import ImportReport, import_json
from localstore.postgres.embedded import EmbeddedServer
from localstore.postgres.policies import APP
from localstore.postgres.quoting import quote_identifier
from localstore.store import LocalStore
from localstore.tenant import Tenant
from sync.access import EMBEDDED
from sync.cli.tables import plural, print_counts, print_failures, say, short
from sync.cli.verified import Verification, check_all, count_causes
from sync.engine import SyncEngine
from sync.errors import SyncError
from sync.link import Link
from sync.results import EXIT_REMAINS, Result, TenantResult

SEED = 2026
COMPANIES = 3
EMBEDDED_TICKETS = 200
TICKETS = 120
"""Enough to look like a help desk, few enough for a demonstration of seconds."""

FromOption = Annotated[
    Path | None,
    typer.Option("--from", metavar="DIR", help="Take help-desk JSON from here; else it is generated.", exists=False),
]
DemoToOption = Annotated[
    str,
    # Not DATABASE_URL: whoever tries a demonstration does not mean the production that is set there.
    typer.Option("--to", metavar="URL|embedded", help="Where production is; by default a PostgreSQL of its own."),
]
KeepOption = Annotated[bool, typer.Option("--keep", help="Keep the store, to go on with it.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo")(demo)


def demo(
    source: FromOption = None, to: DemoToOption = EMBEDDED, data: DataOption = None, keep: KeepOption = False
) -> None:
    """Show the main job: offline writes, push, plan, promote, verify, an edit, a rollback."""
    root = data or Path(tempfile.mkdtemp(prefix="localstore-demo-"))
    kept = keep or data is not None
    try:
        run(Demo(root, source, to, kept=kept).play())
    finally:
        if not kept:
            _remove(root)


@dataclass(slots=True)
class Step:
    """One step while it runs; `text` becomes its line."""

    text: str


@dataclass(slots=True)
class Demo:
    """The story, step by step."""

    root: Path
    source: Path | None
    to: str
    kept: bool
    _began: float = field(default_factory=monotonic)

    async def play(self) -> None:
        """Tell it from the beginning to the end."""
        say("Tenants in SQLite files, offline, and their way into production Postgres and back.")
        async with LocalStore(self.root) as store:
            await self._fill(store)
            await self._write_offline(store)
            # Another production may lack pgvector; the one of our own has it.
            if self.to == EMBEDDED and find_spec("numpy") is not None:
                await self._embed(store)
            async with SyncEngine(store, to=self.to) as engine:
                await self._carry(engine)
                await self._take_back(store, engine)
        self._end()

    async def _fill(self, store: LocalStore) -> None:
        source = self.source
        with self._step("importing help-desk data") as step, tempfile.TemporaryDirectory() as folder:
            if source is None:
                source = Path(folder)
                await asyncio.to_thread(generate, source, seed=SEED, companies=COMPANIES, tickets=TICKETS)
            report = await import_json(store, source)
            made = "generated" if self.source is None else str(self.source)
            step.text = f"imported {_imported(report)} ({made})"
        if not any(tenant.tables.get("tickets") for tenant in report.tenants):
            raise ConfigurationError(f"{source} holds no tickets", hint="localstore demo generates its own data")

    async def _write_offline(self, store: LocalStore) -> None:
        with self._step("writing offline") as step:
            tenants = await store.tenants()
            for name in tenants:
                await _write_ticket(store.tenant(name))
            step.text = (
                f"wrote a new ticket and a reply for each of {plural(len(tenants), 'tenant')}, without a network"
            )

    async def _embed(self, store: LocalStore) -> None:
        from localstore.vectors import HashingEmbedder, Vector, content_hash

        with self._step("embedding") as step:
            embedder, count, nearest = HashingEmbedder(), 0, ""
            for name in await store.tenants():
                tenant = store.tenant(name)
                texts = {
                    f"tickets/{_name(ticket)}": ticket.title or ""
                    for ticket in await tenant.find(Ticket, limit=EMBEDDED_TICKETS)
                }
                vectors = [Vector(item, embedder.embed(text), content_hash(text)) for item, text in texts.items()]
                count += await tenant.vectors.put_many(vectors, model=embedder.model)
                found = await tenant.vectors.search(embedder.embed("on a train"), model=embedder.model, k=1)
                nearest = found[0].item if found else nearest
            step.text = (
                f"embedded {plural(count, 'ticket')} by their words (a hash, no meaning); "
                f"nearest to “on a train”: {nearest}"
            )

    async def _carry(self, engine: SyncEngine) -> None:
        with self._step("making production ready") as step:
            await engine.init()
            where = ", a PostgreSQL of the store's own" if self.to == EMBEDDED else ""
            step.text = f"made production ready{where}: tables with forced row-level security"
        with self._step("pushing") as step:
            pushed = _whole(await engine.push())
            step.text = f"pushed: {_changes(pushed)} sealed and staged in Postgres, a batch a tenant"
        with self._step("planning") as step:
            planned = await engine.plan()
            _whole(planned.result)
            step.text = "planned: the real promotion, run and rolled back"
        print_counts(planned.tenants)
        with self._step("promoting") as step:
            promoted = _whole(await engine.promote(planned))
            step.text = f"promoted what the plan said, a transaction a tenant: {_changes(promoted)}{_held(promoted)}"
        with self._step("verifying") as step:
            found = await check_all(engine, None)
            step.text = f"verified, row by row: {_verdict(found)}"
        if found.exit_code not in (0, EXIT_REMAINS):
            raise SyncError(
                "production differs from the tenants' files", hint=f"localstore sync verify --data {self.root}"
            )

    async def _take_back(self, store: LocalStore, engine: SyncEngine) -> None:
        tenant, spared, taken = await _two_tickets(store)
        with self._step("editing") as step:
            for ticket in (spared, taken):
                ticket.priority = "urgent, says the demo"
                await tenant.put(ticket)
            promoted = _whole(await engine.push([tenant.id], promote=True))
            batch = promoted.tenants[0].batch
            if batch is None:
                raise SyncError("the edit was not promoted", hint="localstore demo, without --to")
            step.text = (
                f"{tenant.id} made two tickets urgent; a push promoted {_changes(promoted)} as batch {short(batch)}"
            )
        with self._step("an application writes in production") as step:
            await edit_as_application(await engine.link(), tenant.id, spared)
            step.text = (
                f"an application closed ticket {_name(spared)} in production, as app_user under row-level security"
            )
        with self._step("rolling back") as step:
            (done,) = _whole(await engine.rollback(batch)).tenants
            step.text = (
                f"rolled batch {short(batch)} back: {_counted(done)} restored, {len(done.left_alone)} left alone"
            )
        for row, why in done.left_alone:
            say(f"           left alone: {row}, {why}")
        with self._step("verifying") as step:
            found = await check_all(engine, None)
            step.text = f"verified again: {_verdict(found)}"
        for name, table in ((n, t) for v in found.tenants for n, t in v.tables.items()):
            for difference in table.differences[:4]:
                say(f"           {'/'.join((name, *difference.key))} {difference.column}: {difference.why.value}")
        with self._step("bringing it again") as step:
            await engine.requeue(batch)
            again = _whole(await engine.push([tenant.id], promote=True))
            step.text = f"put what was taken back in line and pushed: {_changes(again)}; the application's edit stands"

    def _end(self) -> None:
        say(f"Done in {monotonic() - self._began:.1f} s.")
        if self.kept:
            data = shlex.quote(str(self.root))
            to = EMBEDDED if self.to == EMBEDDED else "URL"
            say(f"The store is kept. Look around: localstore sync log --to {to} --data {data}")
        else:
            say("Keep the store and look around: localstore demo --keep")
        say("With data of your own:          localstore demo --from DIR   (docs/commands.md has the layout)")
        say("Your first store:               localstore init --data data; then README.md")

    @contextmanager
    def _step(self, doing: str) -> Iterator[Step]:
        """Time a step and print its line when it is done."""
        step = Step(doing)
        began = monotonic()
        if sys.stderr.isatty():
            with Console(stderr=True).status(f"{doing} …"):
                yield step
        else:
            yield step
        say(f"{monotonic() - began:6.2f} s   {step.text}")


def _remove(root: Path) -> None:
    """Remove the store and its server, whose files may lie elsewhere."""
    asyncio.run(EmbeddedServer(root).erase())
    shutil.rmtree(root, ignore_errors=True)


async def edit_as_application(link: Link, company: str, ticket: Ticket) -> None:
    """Close a ticket in production the way that any application writes there: as app_user, its company set."""

    async def close(connection: asyncpg.Connection) -> None:
        async with connection.transaction():
            await connection.execute(f"SET LOCAL ROLE {quote_identifier(APP)}")
            await connection.execute("SELECT set_config('app.current_company_id', $1, true)", company)
            await connection.execute(
                f"UPDATE {quote_identifier(link.target)}.tickets SET status = 'closed by an application' "
                "WHERE platform = $1 AND ticket_id = $2",
                ticket.platform,
                ticket.ticket_id,
            )

    await link.run(close)


async def _write_ticket(tenant: Tenant) -> None:
    newest = await tenant.find(Ticket, limit=1)
    platform = newest[0].platform if newest else "demo"
    number = f"DEMO-{datetime.now(UTC):%H%M%S%f}"
    ticket = Ticket(platform=platform, ticket_id=number, title="Written on a train", status="open", priority="low")
    reply = Conversation(platform=platform, ticket_id=number, conversation_id="1", content="Mind the gap 🚄")
    await tenant.put_many([ticket, reply])


async def _two_tickets(store: LocalStore) -> tuple[Tenant, Ticket, Ticket]:
    for name in await store.tenants():
        tenant = store.tenant(name)
        tickets = await tenant.find(Ticket, limit=2)
        if len(tickets) == 2:
            return tenant, tickets[0], tickets[1]
    raise ConfigurationError("no tenant has two tickets", hint="localstore demo generates its own data")


def _whole(result: Result) -> Result:
    """Return the result when every tenant was served; else say why not, and end."""
    failed = [tenant.failure for tenant in result.tenants if tenant.failure is not None]
    if failed:
        print_failures(Result(tuple(tenant for tenant in result.tenants if tenant.failure is not None)))
        raise typer.Exit(failed[0].exit_code)
    return result


def _imported(report: ImportReport) -> str:
    nouns = {"tickets": "ticket", "conversations": "message", "knowledge_base": "article"}
    counts = dict.fromkeys(nouns, 0)
    for tenant in report.tenants:
        for name, number in tenant.tables.items():
            if name in counts:
                counts[name] += sum(number.to_json().values())
    parts = [plural(len(report.tenants), "tenant")] + [plural(counts[name], noun) for name, noun in nouns.items()]
    broken = f"; {plural(len(report.broken), 'file')} could not be read" if report.broken else ""
    return ", ".join(parts) + broken


def _changes(result: Result) -> str:
    return plural(sum(result.totals[name] for name in ("inserted", "updated", "deleted")), "row")


def _counted(tenant: TenantResult) -> str:
    numbers = (counts.get(name, 0) for counts in tenant.tables.values() for name in ("inserted", "updated", "deleted"))
    return plural(sum(numbers), "row")


def _held(result: Result) -> str:
    held = sum(tenant.held for tenant in result.tenants)
    return f"; {plural(held, 'row')} held" if held else ""


def _verdict(found: Verification) -> str:
    equal = sum(tenant.equal for tenant in found.tenants)
    if equal == len(found.tenants):
        rows = sum(table.rows for tenant in found.tenants for table in tenant.tables.values())
        return f"all {equal} tenants equal, {plural(rows, 'row')}"
    causes = count_causes(found.tenants)
    listed = ", ".join(f"{number:,} {why}" for why, number in causes.items())
    return f"{equal} of {len(found.tenants)} tenants equal; else every difference has a cause: {listed}"


def _name(ticket: Ticket) -> str:
    return f"{ticket.platform}/{ticket.ticket_id}"
