"""A tenant's blobs are its own: keys that are refused, keys that are guessed, links and files that were planted."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from localstore import BlobDamaged, BlobError, Blobs, ForeignFile, InvalidIdentifier, LocalStore, LocalStoreError
from localstore.blobs.keys import after_prefix, check_key, fold
from localstore.blobs.model import NewBlob

if TYPE_CHECKING:
    from tests.contract.blob_backends import World

pytest_plugins = ["tests.contract.blob_backends"]

REFUSED = [
    "",
    "/",
    "/etc/passwd",
    "a/",
    "a//b",
    ".",
    "..",
    "../x",
    "a/../b",
    "a/./b",
    "．．/x",
    "‥/x",
    "a\\..\\b",
    "C:/x",
    "simplecache::file:///etc/passwd",
    "file://x",
    "CON",
    "x/nul.txt",
    "COM¹",
    "lpt9.tar.gz",
    "NUL .txt",
    "a.",
    "a./b",
    "ａ．．",
    "a．/b",
    "a\u2024",
    "a\u3000",
    "a\u00a0/b",
    "\u200b",
    "x/\ufeff\u200d",
    "\u3164",
    "a ",
    "nul\0l",
    "line\nfeed",
    "bell\x07",
    "\x85",
    "gpj\u202egnp.exe",
    "\u2066x",
    "a\u2028b",
    "e\u0301",
    "\ud800",
    "x" * 256,
    "ß" * 600,
    "/".join(["x" * 200] * 6),
]

FINE = [
    "Ünïcode/한빛/نص.txt",
    "a b/.hidden",
    "COMPANY",
    "console.log",
    "a..b",
    "💾.bin",
    "x" * 255,
    "İ",
    "％2e％2e/x",
    "그리고…",
    "👩\u200d💻",
]

PARTS = ["..", ".", "", "objects", "other", "wedosoft", "ab", "%2e%2e", "~"]
KEYS = st.one_of(
    st.sampled_from(REFUSED + FINE),
    st.text(max_size=40),
    st.lists(st.sampled_from(PARTS), max_size=5).map("/".join),
)


@pytest.mark.parametrize("key", REFUSED)
def test_S1_a_key_that_something_could_take_for_something_else_is_refused(key: str) -> None:
    """Every attack of the list is an InvalidIdentifier, whose message is printable and short."""
    with pytest.raises(InvalidIdentifier) as caught:
        check_key(key)
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 200


@pytest.mark.parametrize("key", FINE)
def test_S1_any_script_is_fine(key: str) -> None:
    """Capitals, spaces, dots, emoji and any script name a blob."""
    assert check_key(key) == key


@given(st.text(min_size=1), st.text(max_size=5))
@example("\ud7ff", "x")
@example("a\U0010ffff", "")
@example("\U0010ffff", "x")
def test_what_begins_with_a_prefix_lies_before_what_comes_after_it(prefix: str, rest: str) -> None:
    """A listing's bound leaves out no key with the prefix and lets in none without it, by bytes as SQL compares."""
    behind = after_prefix(prefix)
    if behind is None:
        assert set(prefix) == {"\U0010ffff"}
        return
    with suppress(UnicodeEncodeError):
        assert prefix.encode() <= (prefix + rest).encode() < behind.encode()
        assert not behind.startswith(prefix)
    assert fold(unicodedata.normalize("NFD", rest)) == fold(unicodedata.normalize("NFC", rest))


async def _everything(blobs: Blobs, key: str, other: str) -> list[Any]:
    """Make every public call with the keys and return what could be told from the answers."""
    calls: list[Callable[[], Any]] = [
        lambda: blobs.get(key),
        lambda: blobs.get(key, 0, 10**6),
        lambda: blobs.stat(key),
        lambda: blobs.exists(key),
        lambda: blobs.list(key, None),
        lambda: blobs.list("", None, key),
        blobs.usage,
        lambda: blobs.presign(key, 60),
        lambda: blobs.put(key, b"mine", metadata={"of": key.encode(errors="replace").decode(errors="replace")}),
        lambda: blobs.copy(other, key),
        lambda: blobs.copy(key, other),
        lambda: blobs.delete(key),
        lambda: blobs.delete_prefix(key),
        blobs.sweep,
    ]
    answers = []
    for call in calls:
        try:
            answers.append(await call())
        except LocalStoreError as error:
            answers.append((error.message, error.hint))
    return answers


async def test_S1_no_key_reaches_another_tenants_blobs(world: World) -> None:
    """Whatever keys one tenant uses in whatever public call, the other's blobs are neither seen nor changed."""
    secret = b"the other's secret"
    victim, attacker = world.blobs("victim"), world.blobs("attacker")
    for name in ("secret.txt", "a/b", "x"):
        await victim.put(name, secret, metadata={"who": "victim's metadata"})
    before = [blob async for blob in victim.walk()]
    digest = before[0].hash
    guesses = [
        "secret.txt",
        "a/b",
        "a",
        digest,
        f"objects/{digest[:2]}/{digest}",
        f"victim/objects/{digest[:2]}/{digest}",
        f"../../victim/blobs/objects/{digest[:2]}/{digest}",
        f"../victim/{digest}",
        *REFUSED,
    ]

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.data())
    def gather(data: st.DataObject) -> None:
        guesses.append(data.draw(KEYS))

    gather()
    for guess in guesses:
        for answer in await _everything(attacker, guess, "own"):
            assert secret not in repr(answer).encode()
            assert "victim's metadata" not in repr(answer)
            assert answer != secret
    assert [blob async for blob in victim.walk()] == before
    assert await victim.get("secret.txt") == secret
    # The very hash, in a row that the attacker made by hand, finds nothing of the other's either.
    await attacker._index.save(NewBlob("stolen", len(secret), digest, "text/plain", {}), None)
    with pytest.raises(BlobDamaged, match="not here"):
        await attacker.get("stolen")
    with pytest.raises(BlobDamaged, match="not here"):
        await attacker.copy("stolen", "again")


async def test_S1_a_planted_link_is_refused_wherever_it_leads(tmp_path: Path) -> None:
    """A link in place of an object, of a folder of objects or of the blobs' folder is neither read nor written."""
    outside = tmp_path / "outside"
    outside.mkdir()
    async with LocalStore(tmp_path / "data", models=()) as store:
        blobs = store.tenant("wedosoft").blobs
        info = await blobs.put("note", b"written on a train")
        folder = tmp_path / "data" / "wedosoft" / "blobs"
        path = folder / "objects" / info.hash[:2] / info.hash
        (outside / info.hash).write_bytes(b"written on a train")
        planted: list[tuple[Path, Path]] = [
            (path, outside / info.hash),
            (path.parent, outside),
            (path.parent.parent, outside),
            (folder, outside),
        ]
        for place, target in planted:
            aside = place.with_name("aside")
            place.rename(aside)
            place.symlink_to(target)
            for call in (blobs.get("note"), blobs.put("again", b"written on a train"), blobs.copy("note", "copied")):
                with pytest.raises((ForeignFile, BlobError)):
                    await call
            place.unlink()
            aside.rename(place)
        assert await blobs.get("note") == b"written on a train"
        assert [found.name for found in outside.iterdir()] == [info.hash]
        # Something else than a file, which would wait for its writer or give no end of bytes.
        path.unlink()
        os.mkfifo(path, 0o600)
        with pytest.raises(ForeignFile):
            await blobs.get("note")


async def test_S4_blobs_are_closed_to_other_users(tmp_path: Path) -> None:
    """Every folder of the blobs is 0700 and every file 0600, whatever the umask is."""
    before = os.umask(0)
    try:
        async with LocalStore(tmp_path / "data", models=()) as store:
            await store.tenant("wedosoft").blobs.put("note", b"private")
    finally:
        os.umask(before)
    seen = 0
    for place in (tmp_path / "data" / "wedosoft" / "blobs").rglob("*"):
        assert place.stat().st_mode & 0o777 == (0o700 if place.is_dir() else 0o600), place
        seen += place.is_file()
    assert seen == 1
