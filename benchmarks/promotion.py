"""Time a push of many rows, step by step, against COPY of the same rows into the same indexed table.

Run `python benchmarks/promotion.py [ROWS [URL]]`, with the URL of an empty database, else an embedded one. Figures are
ratios to COPY, measured in the same run. The table has a uuid key, ten columns, two indexes and row-level security.
"""

from __future__ import annotations

import asyncio
import io
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from uuid import uuid4

import asyncpg
from sqlmodel import Field

from localstore import LocalStore, TenantModel
from localstore.postgres.embedded import embedded_server
from sync import SyncEngine, ledger, pipeline
from sync.blobs.tally import Tally
from sync.outcome import Options
from sync.steps.seal import seal

COMPANY = "bench"


class Order(TenantModel, table=True):
    """A row of believable width."""

    __tablename__ = "orders"
    customer: str = Field(index=True)
    note: str
    amount: float
    quantity: int
    paid: bool


def order(number: int) -> Order:
    """Return one row."""
    return Order(
        id=uuid4(),
        company_id=COMPANY,
        platform="shop",
        customer=f"customer-{number % 5000}",
        note="Please deliver to the back door, and ring twice. " * 2,
        amount=number / 7,
        quantity=number % 11,
        paid=number % 3 == 0,
    )


async def copy_yardstick(url: str) -> float:
    """Return the seconds that COPY takes for the rows that production has, into an empty table like theirs."""
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE TABLE yardstick (LIKE public.orders INCLUDING ALL)")
    text = io.BytesIO()
    await connection.copy_from_table("orders", output=text)
    text.seek(0)
    began = perf_counter()
    await connection.copy_to_table("yardstick", source=text)
    seconds = perf_counter() - began
    await connection.execute("DROP TABLE yardstick")
    await connection.close()
    return seconds


async def one_push(engine: SyncEngine, store: LocalStore, label: str, times: dict[str, dict[str, float]]) -> None:
    """Push what is pending, and note how long each step took."""
    steps = times.setdefault(label, {})
    database = (await store.tenant(COMPANY).open()).database
    link = await engine.link()
    began = perf_counter()
    await seal(database, "public")
    steps["seal"] = perf_counter() - began
    began = perf_counter()
    await link.run(lambda connection: pipeline.send(connection, database, "public", place=None, tally=Tally()))
    steps["stage"] = perf_counter() - began
    began = perf_counter()
    await link.run(lambda connection: pipeline.promote_staged(connection, COMPANY, "public", Options()))
    steps["promote"] = perf_counter() - began
    async with link.connection() as connection:
        (last, *_) = await ledger.log(connection, None, 1)
        print(f"{label:12} {last.counts}", file=sys.stderr)


@asynccontextmanager
async def production(root: Path, url: str | None) -> AsyncIterator[str]:
    """Give an empty database's URL: the one named, or one of our own."""
    if url is not None:
        yield url
        return
    async with embedded_server(root, erase=True) as server:
        yield server.url


async def main(rows: int, url: str | None) -> None:
    """Run the benchmark."""
    times: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="localstore-bench-") as folder:
        root = Path(folder) / "data"
        async with production(root, url) as to, LocalStore(root, models=[Order]) as store:
            tenant = store.tenant(COMPANY)
            began = perf_counter()
            await tenant.put_many([order(number) for number in range(rows)])
            print(f"put_many     {rows / (perf_counter() - began):,.0f} rows/s", file=sys.stderr)
            async with SyncEngine(store, to=to) as engine:
                await engine.init()
                await one_push(engine, store, "new", times)
                yardstick = await copy_yardstick(to)
                database = (await tenant.open()).database
                now = datetime.now(UTC).isoformat(sep=" ")[:26]
                await database.write(
                    lambda file: file.execute("UPDATE orders SET customer = customer || 'x', updated_at = ?", (now,))
                )
                await one_push(engine, store, "all changed", times)
                await database.write(
                    lambda file: file.execute("UPDATE orders SET note = note || 'x' WHERE rowid % 100 = 0")
                )
                await one_push(engine, store, "1 % changed", times)
    print(f"{rows:,} rows; COPY took {yardstick:.2f} s = 1.0")
    print(f"{'':12}" + "".join(f"{step:>10}" for step in ("seal", "stage", "promote", "total")))
    for label, steps in times.items():
        cells = [*steps.values(), sum(steps.values())]
        print(f"{label:12}" + "".join(f"{seconds / yardstick:10.2f}" for seconds in cells))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000, sys.argv[2] if len(sys.argv) > 2 else None))
