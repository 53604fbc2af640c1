"""The options that several commands share, each spelled once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DataOption = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="The store's folder; else DATA_PATH, else ./data.", show_default=False),
]
TenantsOption = Annotated[
    list[str] | None,
    typer.Option("--tenant", metavar="TENANT", help="Only this tenant; may be given again.", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="Print errors only.")]
