"""Where a change of a tenant's mode can die, by the modes that it is from and to: the name says what was done last."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.faults.killing import after, before, die


def _commit_sent() -> None:
    """Die when the bytes of the COMMIT that sets a mode were given to the kernel and its answer was not read."""
    import asyncpg

    execute = asyncpg.Connection.execute
    said = False

    async def executed(self: Any, query: str, *arguments: Any, **named: Any) -> Any:
        nonlocal said
        said = said or query.startswith("UPDATE localstore.tenants SET mode")
        sending = execute(self, query, *arguments, **named)
        if said and query.startswith("COMMIT"):
            sending.send(None)
            die()
        return await sending

    asyncpg.Connection.execute = executed


_NOTHING_DECLARED = before("sync.authority", "set_mode")
_DECLARED = after("sync.authority", "set_mode")
_BOTH = after("sync.modes:Modes", "_declare")

MODE_POINTS: dict[tuple[str, str], dict[str, Callable[[], None]]] = {
    ("file", "hybrid"): {
        "compared, nothing declared": _NOTHING_DECLARED,
        "declared in production, not in the file": _DECLARED,
        "declared in both, nobody told": _BOTH,
    },
    ("hybrid", "postgresql"): {
        "carried while others write": before("sync.modes", "set_mode"),
        "closed, nothing carried yet": after("sync.modes:Modes", "_mirror"),
        "closed, the rest staged": after("sync.pipeline", "send", nth=2),
        "closed, the rest promoted": after("sync.pipeline", "promote_staged", nth=2),
        "compared, nothing declared": _NOTHING_DECLARED,
        "COMMIT is sent, its answer not read": _commit_sent,
        "declared in production, not in the file": _DECLARED,
        "declared in both, nobody told": _BOTH,
    },
    ("postgresql", "hybrid"): {
        "taken in while others write": _NOTHING_DECLARED,
        "COMMIT is sent, its answer not read": _commit_sent,
        "declared in production, nothing taken in": _DECLARED,
        "the last taken in, nothing committed": after("sync.steps.pull", "_apply", nth=2),
        "the file is open, nobody told": after("sync.modes:Modes", "_take_in"),
    },
    ("hybrid", "file"): {
        "nothing declared": _NOTHING_DECLARED,
        "declared in production, not in the file": _DECLARED,
    },
}


def named() -> dict[str, Callable[[], None]]:
    """Return the points by names that say the two modes, too."""
    return {
        point_name(start, end, point): plant
        for (start, end), points in MODE_POINTS.items()
        for point, plant in points.items()
    }


def point_name(start: str, end: str, point: str) -> str:
    """Return the name under which a command is told a point."""
    return f"{start} to {end}: {point}"
