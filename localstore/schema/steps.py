"""The steps of a schema change: what is to happen to which table, whether it loses anything, and why it may not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from localstore.schema.tables import Kind


class Action(StrEnum):
    """What a step does."""

    CREATE_TABLE = "create table"
    ADD_COLUMN = "add column"
    ALTER_COLUMN = "alter column"
    DROP_COLUMN = "drop column"
    ADD_INDEX = "add index"
    DROP_INDEX = "drop index"
    ADD_CONSTRAINT = "add constraint"
    DROP_CONSTRAINT = "drop constraint"
    CHANGE_KEY = "change key"


NULLABLE: Final = "may be NULL"
NOT_NULL: Final = "may not be NULL"
"""The details of steps about what a column takes."""


@dataclass(frozen=True, slots=True)
class Step:
    """One change of one table. `subject` is the column, index or constraint; `sql` are production's statements.

    A destructive step loses values, or shuts out those who still have the old shape; it is done only when asked for.
    `refused` says why a step is not done even then.
    """

    table: str
    action: Action
    subject: str = ""
    detail: str = ""
    destructive: bool = False
    refused: str = ""
    sql: tuple[str, ...] = ()

    def allowed(self, *, destructive: bool) -> bool:
        """Return whether the step is to be done."""
        return not self.refused and (destructive or not self.destructive)

    def __str__(self) -> str:
        """Return the step as one line."""
        words = " ".join(word for word in (f"{self.table}: {self.action}", self.subject, self.detail) if word)
        if self.refused:
            return f"{words} (not done: {self.refused})"
        return f"{words} (destructive)" if self.destructive else words

    def to_json(self) -> dict[str, Any]:
        """Return the step as plain values."""
        return {
            "table": self.table,
            "action": self.action.value,
            "subject": self.subject,
            "detail": self.detail,
            "destructive": self.destructive,
            "refused": self.refused or None,
            "sql": list(self.sql),
        }


def widens(old: Kind, new: Kind) -> bool:
    """Return whether every value of the old kind is the same value in the new one, here and in production.

    Whole numbers among decimals are; a real has fewer digits, and a text does not compare as a number does.
    """
    return old is new or (old, new) == (Kind.INTEGER, Kind.NUMERIC)


def renames(steps: Iterable[Step]) -> str:
    """Return why dropped columns of one table are kept for now: what was added beside them may be a rename."""
    listed = tuple(steps)
    added = [step.subject for step in listed if step.action is Action.ADD_COLUMN]
    if not added or not any(step.action is Action.DROP_COLUMN for step in listed):
        return ""
    return (
        f"{', '.join(added)} is added at the same time, and if that is a rename the values would be lost: "
        "apply the addition, copy the values, then drop the old column"
    )
