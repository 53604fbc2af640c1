"""Whose row it is: the company is filled in where it is missing, and another tenant's row is refused."""

from __future__ import annotations

from typing import Any

from localstore.errors import WrongTenant
from localstore.schema.tables import COMPANY_COLUMN


def claim(row: Any, company_id: str) -> None:
    """Make the row this tenant's; a table without a company column belongs to whoever's file it is in."""
    found = getattr(row, COMPANY_COLUMN, company_id)
    if not found:
        setattr(row, COMPANY_COLUMN, company_id)
    elif found != company_id:
        raise WrongTenant(
            f"a {type(row).__name__} of tenant {found!a} cannot be written to tenant {company_id!a}",
            hint="leave company_id empty, or write the row to its own tenant",
            tenant=company_id,
        )
