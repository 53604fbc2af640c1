"""Production as sync needs it: prepared, its tables registered, its constraints known."""

from sync.production.compare import differences
from sync.production.describe import (
    Check,
    ForeignKeyLink,
    ProductionColumn,
    ProductionTable,
    Trigger,
    Unique,
    describe,
    describe_all,
)
from sync.production.prepare import is_prepared, prepare
from sync.production.register import register
from sync.production.registry import Registered, registered
from sync.production.rights import require_rights

__all__ = [
    "Check",
    "ForeignKeyLink",
    "ProductionColumn",
    "ProductionTable",
    "Registered",
    "Trigger",
    "Unique",
    "describe",
    "describe_all",
    "differences",
    "is_prepared",
    "prepare",
    "register",
    "registered",
    "require_rights",
]
