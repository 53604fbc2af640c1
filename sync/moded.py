"""What `engine.modes` returns: frozen values whose `to_json` is the command's `--json`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from localstore.sqlite.mode import ADVANCING, FILE, POSTGRESQL


@dataclass(frozen=True, slots=True)
class ModeStatus:
    """One tenant's mode, by production and by its file; None where that is not known here, as its pending rows are.

    `asked` says whether production was asked.
    """

    tenant: str
    asked: bool
    production: str | None
    file: str | None
    pending: int | None
    held: int | None

    @property
    def mode(self) -> str | None:
        """Return where the truth is: production knows, and where it was not asked the file says what it last heard."""
        return self.production or self.file

    @property
    def changing(self) -> bool:
        """Return whether a change of the mode was begun and not finished."""
        return self.file == ADVANCING or (None not in (self.production, self.file) and self.production != self.file)

    @property
    def next(self) -> str:
        """Return what can be done now."""
        advance, back = (f"localstore mode {verb} {self.tenant}" for verb in ("advance", "back"))
        if self.changing:
            return f"`{advance}` finishes the change, `{back}` undoes it"
        if self.mode == FILE:
            return advance
        return back if self.mode == POSTGRESQL else f"`{advance}`, or `{back}`"

    def to_json(self) -> dict[str, Any]:
        """Return the tenant's entry."""
        return {
            "tenant": self.tenant,
            "mode": self.mode,
            "production": self.production,
            "file": self.file,
            "changing": self.changing,
            "pending": self.pending,
            "held": self.held,
            "next": self.next,
        }


@dataclass(frozen=True, slots=True)
class ModeStatuses:
    """Tenants' modes."""

    tenants: tuple[ModeStatus, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the command's JSON."""
        return {"version": 1, "tenants": [tenant.to_json() for tenant in self.tenants], "exit": 0}


@dataclass(frozen=True, slots=True)
class ModeChange:
    """What a change of mode came to."""

    tenant: str
    before: str
    mode: str
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the command's JSON."""
        return {
            "version": 1,
            "tenant": self.tenant,
            "from": self.before,
            "mode": self.mode,
            "seconds": round(self.seconds, 3),
            "exit": 0,
        }
