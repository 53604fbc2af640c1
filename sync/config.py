"""The engine's settings: one frozen object, passed in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from localstore.errors import ConfigurationError

CONCURRENCY_DEFAULT = 4
"""Tenants served at once: enough to hide the round trips, few enough for a small production's connection limit."""
TIMEOUT_SECONDS_DEFAULT = 20.0
TARGET_DEFAULT = "public"


@dataclass(frozen=True, slots=True)
class SyncSettings:
    """How the engine works.

    `target` is production's schema (None: what each tenant's file remembers, else `public`); `allow_deletes` the rows a
    table and batch may delete (None: the greater of 1,000 and a fifth of the table); `on_error` whether rows that
    production cannot take are held or give up their whole batch. `offline` leaves DATABASE_URL out of account, so that
    what the tenants' files know is read where production does not answer.
    """

    target: str | None = None
    concurrency: int = CONCURRENCY_DEFAULT
    allow_deletes: int | None = None
    on_error: Literal["hold", "abort"] = "hold"
    timeout: float = TIMEOUT_SECONDS_DEFAULT
    offline: bool = False

    def __post_init__(self) -> None:
        """Refuse values that make no sense together or at all."""
        if self.concurrency < 1:
            raise ConfigurationError("--concurrency must be at least 1", hint="--concurrency 4")
        if self.timeout <= 0:
            raise ConfigurationError("--timeout must be more than 0 seconds", hint="--timeout 20")
        if self.allow_deletes is not None and self.allow_deletes < 0:
            raise ConfigurationError("--allow-deletes must not be negative", hint="--allow-deletes 1000")
