"""How fast rows are encoded, as a ratio to reading the same rows by plain sqlite3 in the same run.

python benchmarks/codec.py [ROWS]
"""

from __future__ import annotations

import random
import sqlite3
import struct
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from uuid import UUID

import orjson

from localstore.codec import Encoder, Text, Value, encoder, field_encoders
from localstore.schema.tables import Column, Kind, Table

ROWS = 100_000
ROWS_A_FETCH = 500
ROUNDS = 5

TICKETS = Table(
    "tickets",
    (
        Column("id", Kind.UUID),
        Column("ticket_id", Kind.TEXT),
        Column("title", Kind.TEXT),
        Column("description", Kind.TEXT),
        Column("status", Kind.TEXT),
        Column("tags", Kind.JSON),
        Column("raw_data", Kind.JSON),
        Column("is_processed", Kind.BOOLEAN),
        Column("created_at", Kind.TIMESTAMP),
        Column("updated_at", Kind.TIMESTAMP),
    ),
    key=("ticket_id",),
)


def fill(path: Path, rows: int) -> None:
    """Write a table of tickets."""
    chance = random.Random(1)
    words = "printer invoice login Fehler 배송 again blue screen after update crash £ ticket customer reply".split()

    def ticket(number: int) -> tuple[str | int, ...]:
        title = " ".join(chance.choices(words, k=6))
        body = " ".join(chance.choices(words, k=60))
        day = f"2024-{chance.randint(1, 12):02}-{chance.randint(1, 28):02} {chance.randint(0, 23):02}:11:12.123456"
        tags = chance.sample(words, 3)
        raw = {"id": number, "subject": title, "requester": {"id": number * 7, "email": "a@example.com"}, "tags": tags}
        raw |= {"custom_fields": {f"cf_{name}": chance.random() for name in range(6)}, "created_at": day, "spam": False}
        texts = (f"MOD-{number}", title, body, "open", orjson.dumps(tags).decode(), orjson.dumps(raw).decode())
        return UUID(int=chance.getrandbits(128)).hex, *texts, number % 2, day, day

    connection = sqlite3.connect(path)
    connection.execute(f"CREATE TABLE tickets ({', '.join(column.name for column in TICKETS.columns)})")
    connection.executemany(f"INSERT INTO tickets VALUES ({', '.join('?' * 10)})", map(ticket, range(rows)))
    connection.commit()
    connection.close()


def read(path: Path, factory: Callable[[bytes], object]) -> Iterator[tuple[Value | None, ...]]:
    """Yield all rows, their texts made by `factory`."""
    connection = sqlite3.connect(path)
    connection.text_factory = factory
    cursor = connection.execute("SELECT * FROM tickets")
    while rows := cursor.fetchmany(ROWS_A_FETCH):
        yield from rows
    connection.close()


def exhaust(rows: Iterable[object]) -> None:
    """Look at every row."""
    deque(rows, maxlen=0)


def exhaust_by(encode_field: Encoder, values: list[Value]) -> None:
    """Encode the values of one column."""
    for value in values:
        encode_field(value)


def encode(rows: Iterable[tuple[Value | None, ...]], encoders: tuple[Encoder, ...]) -> int:
    """Encode all rows as a binary COPY frames them, and return the bytes."""
    pack = struct.Struct(">i").pack
    size = 0
    for row in rows:
        fields = [b"\x00\x0a"]
        for encode_field, value in zip(encoders, row, strict=True):
            if value is None:
                fields.append(b"\xff\xff\xff\xff")
            else:
                data = encode_field(value)
                fields += (pack(len(data)), data)
        size += len(b"".join(fields))
    return size


def best(work: Callable[[], object]) -> float:
    """Return the seconds of the fastest of a few rounds."""
    seconds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def main() -> None:
    """Print rows per second and ratios."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store.db"
        fill(path, rows)
        encoders = field_encoders(TICKETS)
        size = encode(read(path, Text), encoders)
        plain = best(lambda: exhaust(read(path, str)))
        undecoded = best(lambda: exhaust(read(path, Text)))
        both = best(lambda: encode(read(path, Text), encoders))
        tickets = list(read(path, Text))
    print(f"{rows:,} rows of {len(TICKETS.columns)} columns, {size / 1e6:.1f} MB encoded")
    for name, seconds in (("read by plain sqlite3", plain), ("read as Text", undecoded), ("read and encode", both)):
        print(f"{name:24} {seconds:7.3f} s {rows / seconds:12,.0f} rows/s {seconds / plain:7.2f} of plain reading")
    for place, column in enumerate(TICKETS.columns):
        values = [value for row in tickets if (value := row[place]) is not None]
        seconds = best(partial(exhaust_by, encoder(column.kind), values))
        print(f"  {column.name:22} {seconds:7.3f} s {1e9 * seconds / rows:9,.0f} ns a value")


if __name__ == "__main__":
    main()
