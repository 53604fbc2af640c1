"""`localstore sync`: a tenant's changes into production, what was held of them, and back."""

from __future__ import annotations

import typer

from sync.cli import carry, held, look, pull, schema, sweep

app = typer.Typer(
    help="Carry tenants' changes into production Postgres, and take them back.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
carry.add_to(app)
look.add_to(app)
held.add_to(app)
pull.add_to(app)
sweep.add_to(app)
app.add_typer(schema.app, name="schema")

__all__ = ["app"]
