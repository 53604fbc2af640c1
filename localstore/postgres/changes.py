"""What an application may ask of production's feed, through functions that run as its owner: whether rows changed."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Final

STATES: Final = "SELECT tbl, state FROM localstore.states_of_rows($1, $2)"
"""The state of each followed table of a schema, for the transaction's company."""

UNCHANGED: Final = "SELECT localstore.rows_unchanged($1, $2, $3)"
"""Whether the company's rows of these tables are as they were in these states."""


@cache
def changes_sql() -> str:
    """Return the statements that make the functions; they can run again."""
    return files("localstore.postgres").joinpath("changes.sql").read_text(encoding="utf-8")
