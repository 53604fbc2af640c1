"""Results as tables and sentences for people: what was done, what remains, and the next command."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import typer
from rich import box
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from localstore.cli.output import printable
from sync.blobs.named import WAITS_FOR
from sync.cli.session import Session
from sync.results import COUNTS, Failure, HeldItem, Result, TenantResult

LISTED_MAX = 10
"""Rows listed after a command that did something else; the lists themselves show all."""

ADDRESS_WHOLE_MAX = 40
"""Addresses up to this length are not folded, so that they can be copied; half of a pipe's width."""

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")

BRIEF_MAX = 30
"""Characters of a value that lists show."""

SHORT = 8
"""Characters of a batch's id that tables show; every command takes them for the whole."""


def print_grid(table: Grid) -> None:
    """Print a table as wide as the terminal, or 80 columns in a pipe, without blank edges."""
    console = Console(file=sys.stdout, highlight=False, emoji=False, markup=False)
    with console.capture() as captured:
        console.print(table)
    lines = [line.rstrip() for line in captured.get().split("\n")]
    sys.stdout.write("\n".join(line for line in lines if line) + "\n")


def grid(*headings: str, numbers: Sequence[str] = ()) -> Grid:
    """Return an empty table; the columns in `numbers` are set to the right."""
    table = Grid(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for heading in headings:
        if heading in numbers:
            table.add_column(heading, justify="right", no_wrap=True)
        else:
            table.add_column(heading, overflow="fold")
    return table


def cell(text: object) -> Text:
    """Return a value as a cell that can neither style nor move anything."""
    return Text(printable("" if text is None else str(text)))


def say(text: str) -> None:
    """Print a sentence whole: a terminal wraps it, a pipe gets one line."""
    print(printable(text))


def complain(message: str, hint: str = "") -> None:
    """Print an error and the next command on stderr."""
    typer.echo(f"error: {printable(message)}", err=True)
    if hint:
        typer.echo(f"Try: {printable(hint)}", err=True)


def plural(number: int, noun: str) -> str:
    """Return `1 row`, `2 rows`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def megabytes(size: int) -> str:
    """Return a number of bytes as people read it."""
    return f"{size / 1_000_000:,.1f} MB" if size >= 100_000 else f"{size:,} bytes"


def short(batch: object) -> str:
    """Return as much of a batch's id as is shown."""
    return str(batch)[:SHORT]


def print_counts(tenants: Iterable[TenantResult]) -> None:
    """Print what was done with each table, in the columns that are not empty, and the totals."""
    served = [tenant for tenant in tenants if any(any(counts.values()) for counts in tenant.tables.values())]
    shown = [name for name in COUNTS if any(counts.get(name) for tenant in served for counts in tenant.tables.values())]
    if not served:
        return
    table = grid("tenant", "table", *shown, numbers=shown)
    for tenant in served:
        rows = sorted((name, counts) for name, counts in tenant.tables.items() if any(counts.values()))
        for place, (name, counts) in enumerate(rows):
            table.add_row(
                cell(tenant.tenant if place == 0 else ""),
                cell(name),
                *(f"{counts[column]:,}" if counts.get(column) else "·" for column in shown),
                end_section=tenant is served[-1] and place == len(rows) - 1,
            )
    totals = Result(tuple(served)).totals
    if table.row_count > 1:
        table.add_row(Text("total", style="bold"), "", *(f"{totals[column]:,}" for column in shown))
    print_grid(table)


def print_failures(result: Result) -> None:
    """Print why tenants could not be served; the others were."""
    failed = [(tenant.tenant, tenant.failure) for tenant in result.tenants if tenant.failure is not None]
    print_refusals(failed, several=len(result.tenants) > 1)


def print_refusals(failures: Sequence[tuple[str, Failure]], *, several: bool) -> None:
    """Print why tenants could not be served, each named if there are others."""
    for tenant, failure in failures:
        named = several and tenant not in failure.message
        complain(f"{tenant}: {failure.message}" if named else failure.message, failure.hint)


def print_held(items: Sequence[HeldItem], *, at_most: int | None = None, several: bool = True) -> None:
    """Print held rows as a table, the first `at_most` of them."""
    shown = items if at_most is None else items[:at_most]
    table = grid(*(("tenant",) if several else ()), "row", "reason", "what happened")
    if all(len(item.address) <= ADDRESS_WHOLE_MAX for item in shown):
        table.columns[-3].no_wrap = True
    for item in shown:
        cells = [cell(item.address), cell(item.reason), cell(_happened(item))]
        table.add_row(*(([cell(item.tenant)] if several else []) + cells))
    print_grid(table)
    if len(shown) < len(items):
        say(f"… and {plural(len(items) - len(shown), 'more row')}")


def _happened(item: HeldItem) -> str:
    if item.reason == "conflict":
        ours = item.local or {}
        theirs = item.production or {}
        both = [f"{name}: here {brief(ours.get(name))}, production {brief(theirs[name])}" for name in theirs]
        return "; ".join(both) if item.production is not None else "production deleted the row"
    if item.waits_for and not item.waits_for.startswith(WAITS_FOR):
        return f"waits for {item.waits_for}"
    parts = [part for part in (item.column, item.detail) if part]
    return _UUID.sub(lambda found: short(found.group()), ": ".join(parts)) or "-"


def brief(value: str | None, at_most: int = BRIEF_MAX) -> str:
    """Return a value's beginning on one line."""
    if value is None:
        return "NULL"
    line = " ".join(value.split()) if value.strip() else repr(value)
    return line if len(line) <= at_most else f"{line[: at_most - 1]}…"


def print_next(session: Session, items: Sequence[HeldItem]) -> None:
    """Print which commands decide about held rows."""
    reasons = {item.reason for item in items}
    if "conflict" in reasons:
        say(f"Both sides changed these rows. Next: {session.command('conflicts list')}")
    if reasons & {"value", "constraint", "waits"}:
        say(f"Production could not take these rows. Next: {session.command('quarantine list')}")
    if "rolled_back" in reasons:
        batches = sorted({short(item.batch) for item in items if item.reason == "rolled_back" and item.batch})
        again = session.command(f"requeue {batches[0]}") if batches else session.command("requeue BATCH")
        say(f"Taken back and not in line. Next: {again}")


def when(text: str | None) -> str:
    """Return a moment as people read it: in UTC, with the time in this year and the year in others."""
    if text is None:
        return "-"
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return f"{moment:%b %d %H:%M}" if moment.year == datetime.now(UTC).year else f"{moment:%b %d %Y}"
