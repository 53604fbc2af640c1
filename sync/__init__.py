"""Carry tenants' changes into production Postgres: seal, stage, plan, promote, verify, roll back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sync.config import SyncSettings
from sync.engine import SyncEngine
from sync.plan import Plan
from sync.results import Result

if TYPE_CHECKING:
    from sync.hybrid.storage import HybridStorage

__all__ = ["HybridStorage", "Plan", "Result", "SyncEngine", "SyncSettings"]


def __getattr__(name: str) -> Any:
    """Load HybridStorage at its first use: the help desk's models take most of a second, which no command waits."""
    if name != "HybridStorage":
        raise AttributeError(f"module 'sync' has no attribute {name!r}")
    from sync.hybrid.storage import HybridStorage

    return HybridStorage
