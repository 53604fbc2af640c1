"""What hashing costs, and what a blob costs beside a file written, synced and read without us, in the same run.

python benchmarks/blobs.py [MIB]
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from blake3 import blake3

from localstore import Blobs, LocalStore

MIB = 1024 * 1024
SIZE_MIB = 128
SMALL = 300
ROUNDS = 3

HASHES: dict[str, Callable[[bytes], object]] = {
    "SHA-256": lambda data: hashlib.sha256(data).digest(),
    "BLAKE2b": lambda data: hashlib.blake2b(data, digest_size=32).digest(),
    "BLAKE3": lambda data: blake3(data).digest(),
}


async def seconds(call: Callable[[int], Awaitable[object]]) -> float:
    """Return how long a call takes, the best of a few rounds."""
    best = float("inf")
    for number in range(ROUNDS):
        began = time.perf_counter()
        await call(number)
        best = min(best, time.perf_counter() - began)
    return best


def write(path: Path, content: bytes) -> None:
    """Write a file as safely as a blob is, but for its name."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


async def hashes(content: bytes) -> None:
    """Print the speed of each hash."""
    for name, digest in HASHES.items():

        async def call(_: int, digest: Callable[[bytes], object] = digest) -> None:
            digest(content)

        print(f"{name:<24}{len(content) / MIB / await seconds(call):>10,.0f} MiB/s")


async def large(blobs: Blobs, folder: Path, content: bytes) -> None:
    """Print the speed of one large blob, written and read."""

    async def plain_write(number: int) -> None:
        write(folder / f"{number}", content)

    async def put(number: int) -> None:
        await blobs.put(f"large-{number}", b"%d" % number + content)

    async def plain_read(number: int) -> None:
        (folder / f"{number}").read_bytes()

    async def get(number: int) -> None:
        await blobs.get(f"large-{number}")

    for name, ours, plain in (("put", put, plain_write), ("get, verified", get, plain_read)):
        beside, taken = await seconds(plain), await seconds(ours)
        speed = len(content) / MIB / taken
        print(f"{name:<24}{speed:>10,.0f} MiB/s {beside / taken:>7.2f} of a plain file's speed")


async def small(blobs: Blobs, folder: Path) -> None:
    """Print how many small blobs a second are put, one after the other and at once."""

    async def plain(number: int) -> None:
        for place in range(SMALL):
            write(folder / f"small-{number}-{place}", b"%d %d" % (number, place))

    async def in_turn(number: int) -> None:
        for place in range(SMALL):
            await blobs.put(f"turn-{number}/{place}", b"%d %d turn" % (number, place))

    async def at_once(number: int) -> None:
        puts = (blobs.put(f"once-{number}/{place}", b"%d %d once" % (number, place)) for place in range(SMALL))
        await asyncio.gather(*puts)

    beside = await seconds(plain)
    for name, ours in (("small, in turn", in_turn), ("small, at once", at_once)):
        taken = await seconds(ours)
        print(f"{name:<24}{SMALL / taken:>10,.0f} a second {beside / taken:>5.2f} of plain files")


async def main() -> None:
    """Run all of it."""
    content = os.urandom((int(sys.argv[1]) if len(sys.argv) > 1 else SIZE_MIB) * MIB)
    await hashes(content)
    with tempfile.TemporaryDirectory(prefix="localstore-blobs-", dir=Path.cwd()) as folder:
        async with LocalStore(Path(folder) / "data", models=()) as store:
            blobs = store.tenant("wedosoft").blobs
            await large(blobs, Path(folder), content)
            await small(blobs, Path(folder))


if __name__ == "__main__":
    asyncio.run(main())
