"""No room is left, here or there: a clean error, nothing lost, and the next run completes."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from tests.faults.killing import Command
from tests.faults.world import World, note, ticket

FILE_BYTES_MAX = 1 << 20
"""Less than the bundle below needs; the file's own log stays far under it."""


async def test_F6_a_bundle_for_which_there_is_no_room_is_given_up_cleanly(world: World, tmp_path: Path) -> None:
    """A file cannot grow as far as the bundle must: one error that says so, no rest of it, and all is there later."""
    await world.put(*(ticket(number, description="long " * 2_000) for number in range(200)))
    with closing(sqlite3.connect(world.file)) as file:
        file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    pushing = Command(
        *("sync", "push", "--promote", "--data", world.data),
        url=world.url,
        output=tmp_path / "out",
        file_bytes_max=FILE_BYTES_MAX,
    )
    assert pushing.wait() == 1
    assert "the bundle of acme cannot be written: File too large" in pushing.printed
    assert "Try: make room" in pushing.printed
    assert [path.name for path in world.outbox.iterdir() if path.suffix in (".bundle", ".partial")] == []
    assert world.local("SELECT count(*) FROM tickets") == [(200,)]
    assert world.local("PRAGMA integrity_check") == [("ok",)]
    assert (await world.push()).exit_code == 0
    await world.check_settled()


async def test_F5_a_production_without_room_is_told_apart_and_the_queue_kept(busy_world: World, tmp_path: Path) -> None:
    """Postgres says that its disk is full: tried again, then one clear error; with room again, everything goes."""
    world = busy_world
    await world.execute("""
        CREATE FUNCTION public.no_room() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$;
        CREATE TRIGGER no_room BEFORE INSERT ON localstore.chunks EXECUTE FUNCTION public.no_room();
    """)
    before = world.local("SELECT count(*) FROM localstore_marks")
    pushing = Command(*("sync", "push", "--promote", "--data", world.data), url=world.url, output=tmp_path / "out")
    assert pushing.wait() == 1
    assert "run out of something: could not extend file" in pushing.printed
    assert "Try: " in pushing.printed
    assert world.local("SELECT count(*) FROM localstore_marks") == before
    await world.put(note(100, 2))
    await world.execute("DROP TRIGGER no_room ON localstore.chunks")
    assert (await world.push()).exit_code == 0
    await world.check_settled()
