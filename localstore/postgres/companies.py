"""What an application may ask of production's list of companies, through functions that run as its owner."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Final

COMPANIES: Final = "SELECT localstore.companies()"
"""All companies that the login may know of, sorted."""

MODE: Final = "SELECT localstore.mode_of_company()"
"""The mode of the transaction's company, or NULL where nobody saved to it."""

REGISTER: Final = "SELECT localstore.register_company($1)"
"""The same, and the mode stays until the transaction ends; a new company is listed with the schema that is given."""

MODE_LOCK: Final = "SELECT pg_advisory_xact_lock(hashtextextended('localstore:mode:' || $1, 0))"
"""What a change of a company's mode waits for: every transaction that wrote under the old one."""


@cache
def companies_sql() -> str:
    """Return the statements that make the functions; they can run again."""
    return files("localstore.postgres").joinpath("companies.sql").read_text(encoding="utf-8")
