"""Schema changes of production: what tenants' tables ask of it, planned as SQL and applied."""

from sync.schema.change import ProductionChange, Schema, TargetChange

__all__ = ["ProductionChange", "Schema", "TargetChange"]
