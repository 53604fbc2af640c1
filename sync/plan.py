"""A plan: what promoting the staged batches would do, with a digest that tells whether production moved since."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson

from localstore.errors import ConfigurationError
from sync.results import Result, TenantResult

PLAN_FORMAT = 1


@dataclass(frozen=True, slots=True)
class PlannedBatch:
    """A batch of the plan. `digest` covers (key, action, before-image) of every row that it touches."""

    batch: UUID
    tenant: str
    digest: str
    tables: dict[str, dict[str, int]]


@dataclass(frozen=True, slots=True)
class Plan:
    """The real promotion, run and rolled back. `tenants` are in the order in which they were asked for."""

    target: str
    made_at: datetime
    result: Result
    batches: tuple[PlannedBatch, ...]

    @property
    def tenants(self) -> tuple[TenantResult, ...]:
        """Return what would be done for each tenant."""
        return self.result.tenants

    @property
    def exit_code(self) -> int:
        """Return the command's exit code."""
        return self.result.exit_code

    def to_json(self) -> dict[str, Any]:
        """Return the plan as the command prints it and as `save` writes it."""
        return {
            **self.result.to_json(),
            "plan": {
                "format": PLAN_FORMAT,
                "target": self.target,
                "made_at": self.made_at.isoformat(),
                "batches": [
                    {
                        "batch": str(batch.batch),
                        "tenant": batch.tenant,
                        "digest": batch.digest,
                        "tables": batch.tables,
                    }
                    for batch in self.batches
                ],
            },
        }

    def save(self, path: Path) -> None:
        """Write the plan to a file that `load` reads on any machine."""
        try:
            path.write_bytes(orjson.dumps(self.to_json(), option=orjson.OPT_INDENT_2) + b"\n")
        except OSError as error:
            raise ConfigurationError(
                f"the plan cannot be saved in {path}: {error.strerror}",
                hint="name a file in a folder that is there: localstore sync plan --out FILE",
            ) from error

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Read a plan; raises ConfigurationError when the file holds none."""
        try:
            shape = orjson.loads(path.read_bytes())["plan"]
            if shape["format"] != PLAN_FORMAT:
                raise ConfigurationError(
                    f"{path} holds a plan of format {shape['format']}; this version reads {PLAN_FORMAT}",
                    hint="localstore sync plan --out FILE makes a new plan",
                )
            batches = tuple(
                PlannedBatch(UUID(batch["batch"]), batch["tenant"], batch["digest"], batch["tables"])
                for batch in shape["batches"]
            )
            made_at = datetime.fromisoformat(shape["made_at"])
            return cls(shape["target"], made_at, Result(()), batches)
        except OSError as error:
            raise ConfigurationError(
                f"{path} cannot be read: {error.strerror}", hint="localstore sync plan --out FILE makes a plan"
            ) from error
        except ConfigurationError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigurationError(
                f"{path} holds no plan", hint="localstore sync plan --out FILE makes a plan"
            ) from error
