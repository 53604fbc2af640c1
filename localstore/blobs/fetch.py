"""Bring an object from one place to another: what arrives is what its name says, or it is not kept."""

from __future__ import annotations

from typing import Final

from localstore.blobs.incoming import Incoming
from localstore.blobs.objects import CHUNK_BYTES, Objects, new_hasher
from localstore.errors import BlobDamaged
from localstore.sqlite.threads import in_thread

_HINT: Final = "put the blob again where its bytes still are, then: localstore sync push --promote"


async def fetch(here: Objects, there: Objects, digest: str, size: int) -> bool:
    """Bring an object from `there` to `here`; return False where it is not there either.

    Raises BlobDamaged, and keeps nothing, when its bytes are not those that its name says. May be called again.
    """
    reader = await there.open(digest)
    if reader is None:
        return False
    try:
        async with Incoming(here, size) as incoming:
            while incoming.size < size and (data := await reader.read(incoming.size, _end(incoming.size, size))):
                await incoming.write(data)
                await incoming.flush()
            if incoming.size != size or incoming.hash != digest:
                raise BlobDamaged(f"the object {digest[:12]} in {there!r} is not what its name says", hint=_HINT)
            await incoming.keep()
    finally:
        await reader.close()
    return True


async def is_intact(objects: Objects, digest: str, size: int) -> bool:
    """Read an object whole and return whether its bytes are what its name says."""
    reader = await objects.open(digest)
    if reader is None:
        return False
    hasher, position = new_hasher(), 0
    try:
        while position < size and (data := await reader.read(position, _end(position, size))):
            await in_thread(lambda data=data: hasher.update(data))  # type: ignore[misc]
            position += len(data)
    finally:
        await reader.close()
    return position == size and hasher.hexdigest() == digest


def _end(position: int, size: int) -> int:
    return min(position + CHUNK_BYTES, size)
