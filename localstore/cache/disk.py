"""What diskcache may write and read here: keys as UTF-8, values as checked bytes in the row, and nothing else.

diskcache hands what it finds to pickle: values, keys, and through its own JSON variant as well. Whoever can write to
the folder could then run code, so a pickled entry is refused wherever it turns up. Values never become files either:
a stored file name leads wherever it wants, also for removal, and a killed process leaves such files behind.
"""

from __future__ import annotations

import zlib
from typing import Any, NoReturn

import diskcache
from diskcache.core import MODE_PICKLE, MODE_RAW, UNKNOWN

from localstore.cache.failures import RefusedEntry

_CHECK_BYTES = 4


class Disk(diskcache.Disk):  # type: ignore[misc]  # diskcache has no types
    """Converts between diskcache's rows and ours; everything that is not ours raises RefusedEntry."""

    def put(self, key: object) -> tuple[bytes, bool]:
        """Return the columns of a key."""
        if not isinstance(key, str):
            raise RefusedEntry(f"a key is a text, and {type(key).__name__} would have to be pickled")
        return key.encode(), True

    def get(self, key: object, raw: object) -> str:
        """Return the key of its columns."""
        if not raw:
            raise RefusedEntry("its key is a pickle")
        if not isinstance(key, bytes):
            raise RefusedEntry("its key is no text")
        try:
            return key.decode()
        except UnicodeDecodeError:
            raise RefusedEntry("its key is no text") from None

    def store(self, value: object, read: bool, key: object = UNKNOWN) -> tuple[int, int, None, bytes]:
        """Return the columns of a value: its size, how it is stored, no file, and its bytes."""
        if read or not isinstance(value, bytes) or not isinstance(key, str):
            raise RefusedEntry(f"{type(value).__name__} would have to be pickled or put into a file")
        return len(value), MODE_RAW, None, _check(key, value) + value

    def fetch(self, mode: int, filename: object, value: object, read: bool) -> bytes:
        """Return the stored bytes, still with their checksum; `value_of` takes that off."""
        if mode == MODE_PICKLE:
            raise RefusedEntry("its value is a pickle")
        if mode != MODE_RAW or filename is not None or read:
            raise RefusedEntry("its value is said to be in a file, and ours never are")
        if not isinstance(value, bytes):
            raise RefusedEntry("its value is not bytes")
        return value

    def filename(self, *_for: object, **_named: object) -> NoReturn:
        """Refuse: no value is put into a file."""
        raise RefusedEntry("no value is put into a file")

    def remove(self, file_path: Any) -> None:
        """Leave every file alone: the name was read from the database, and none of them is ours."""


def value_of(key: str, stored: bytes) -> bytes:
    """Return the value that was stored under this key; raises RefusedEntry when a bit of either is another one."""
    check, value = stored[:_CHECK_BYTES], stored[_CHECK_BYTES:]
    if check != _check(key, value):
        raise RefusedEntry("it is damaged")
    return value


def _check(key: str, value: bytes) -> bytes:
    return zlib.crc32(value, zlib.crc32(key.encode())).to_bytes(_CHECK_BYTES)
