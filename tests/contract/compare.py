"""What a storage did with a call, in a form that can be compared with what another one did."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from localstore import LocalStoreError, StorageInterface
from localstore.storage.changes import same
from tests.contract.conftest import Every

Call = Callable[[StorageInterface], Awaitable[Any]]

CLOCK = ("created_at", "updated_at", "last_updated")
"""Members that may come from the clock, which two calls cannot read at once."""


async def outcome(storage: StorageInterface, call: Call) -> Any:
    """Return what the call returned, or the kind and the text of the error that it raised."""
    try:
        return await call(storage)
    except LocalStoreError as error:
        return {"error": type(error).__name__, "message": error.message, "hint": error.hint}


async def agree(every: Every, call: Call, *, clock: bool = False) -> Any:
    """Make the call on every backend and return the answer, which all of them must give, to the type of each value.

    With `clock` times are set aside.
    """
    first, *others = [await outcome(storage, call) for storage in every.all]
    for other in others:
        a, b = (timeless(first), timeless(other)) if clock else (first, other)
        assert same(a, b), f"{a!r}\n{b!r}"
    return first


def timeless(answer: Any) -> Any:
    """Return an answer without what may come from the clock."""
    match answer:
        case dict():
            return {name: timeless(value) for name, value in answer.items() if name not in CLOCK}
        case list():
            return [timeless(value) for value in answer]
        case _:
            return answer
