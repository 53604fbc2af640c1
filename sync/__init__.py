"""Carry tenants' changes into production Postgres: seal, stage, plan, promote, verify, roll back."""

from sync.config import SyncSettings
from sync.engine import SyncEngine
from sync.plan import Plan
from sync.results import Result

__all__ = ["Plan", "Result", "SyncEngine", "SyncSettings"]
