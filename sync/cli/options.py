"""The options of `localstore sync`, each spelled once."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from sync.config import CONCURRENCY_DEFAULT, TIMEOUT_SECONDS_DEFAULT


class OnError(StrEnum):
    """What happens to rows that production cannot take."""

    HOLD = "hold"
    ABORT = "abort"


ToOption = Annotated[
    str | None,
    typer.Option("--to", metavar="URL|embedded", help="Production; else DATABASE_URL.", show_default=False),
]
SchemaOption = Annotated[
    str | None,
    typer.Option(
        "--schema", metavar="SCHEMA", help="Production's schema; else what the tenant remembers, else public."
    ),
]
OnErrorOption = Annotated[
    OnError,
    typer.Option("--on-error", help="Hold the rows that production cannot take, or give up their batch."),
]
AllowDeletesOption = Annotated[
    int | None,
    typer.Option(
        "--allow-deletes",
        metavar="N",
        help="Rows that a batch may delete of a table; else 1,000 or a fifth of the table.",
        show_default=False,
    ),
]
TimeoutOption = Annotated[
    float, typer.Option("--timeout", metavar="SECONDS", help="Give up on a server that does not answer.")
]
ConcurrencyOption = Annotated[int, typer.Option("--concurrency", metavar="N", help="Tenants served at once.")]
BatchArgument = Annotated[
    str, typer.Argument(metavar="BATCH", help="A batch's id, or the beginning of it.", show_default=False)
]
RowArgument = Annotated[
    str, typer.Argument(metavar="ROW", help="A row's address, such as tickets/jira/MOD-42.", show_default=False)
]
LimitOption = Annotated[int, typer.Option("--limit", metavar="N", min=1, help="Show at most so many.")]

TIMEOUT = TIMEOUT_SECONDS_DEFAULT
CONCURRENCY = CONCURRENCY_DEFAULT
