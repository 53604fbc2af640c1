"""The roles of production and the row-level security that binds them to one company."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Final

from localstore.postgres.quoting import quote_identifier

OWNER: Final = "localstore_owner"
STAGER: Final = "localstore_stager"
PROMOTER: Final = "localstore_promoter"
READER: Final = "localstore_reader"
APP: Final = "app_user"
ROLES: Final = (OWNER, STAGER, PROMOTER, READER, APP)

COMPANY_SETTING: Final = "app.current_company_id"
COMPANY_POLICY: Final = "localstore_company"
LOGIN_POLICY: Final = "localstore_login"


@cache
def roles_sql() -> str:
    """Return the statements that make the roles; they do only what is missing."""
    return files("localstore.postgres").joinpath("roles.sql").read_text(encoding="utf-8")


def company_test(company: str) -> str:
    """Return the condition under which a row is the current company's; `company` names its column.

    A setting that was never made reads as NULL and one whose transaction has ended as '': neither is a company.
    """
    return f"({quote_identifier(company)} = NULLIF(current_setting('{COMPANY_SETTING}', true), ''))"


def protect(relation: str, company: str) -> tuple[str, ...]:
    """Return the statements that bind a new table (quoted) to the current company, its owner included.

    There is one permissive policy, since permissive policies are OR-ed; it covers all commands, so that reading back
    what was written (RETURNING, ON CONFLICT) works and nothing is let in that could not be read.
    """
    test = company_test(company)
    return (
        f"ALTER TABLE {relation} ENABLE ROW LEVEL SECURITY",
        f"ALTER TABLE {relation} FORCE ROW LEVEL SECURITY",
        f"CREATE POLICY {COMPANY_POLICY} ON {relation} AS PERMISSIVE FOR ALL TO {APP} USING {test} WITH CHECK {test}",
        *grants(relation),
    )


def grants(relation: str) -> tuple[str, ...]:
    """Return the statements that let applications read and write rows and nothing else: TRUNCATE ignores policies."""
    return (
        f"REVOKE ALL ON TABLE {relation} FROM PUBLIC",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON TABLE {relation} TO {APP}",
    )


def grant_to(login: str) -> str:
    """Return the statement by which an owner lets a login push, promote and verify."""
    return f"GRANT {STAGER}, {PROMOTER}, {READER} TO {quote_identifier(login)};"
