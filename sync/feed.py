"""The triggers that write down what others changed in production."""

from __future__ import annotations

from typing import Final

from localstore.postgres.policies import PROMOTER
from localstore.postgres.quoting import quote_literal
from localstore.schema.postgres import production_name, relation
from localstore.schema.tables import Table

FEED_TRIGGERS: Final = {
    "localstore_feed_insert": "AFTER INSERT ON {} REFERENCING NEW TABLE AS new_rows",
    "localstore_feed_update": "AFTER UPDATE ON {} REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows",
    "localstore_feed_delete": "AFTER DELETE ON {} REFERENCING OLD TABLE AS old_rows",
    "localstore_feed_truncate": "AFTER TRUNCATE ON {}",
}
"""Names and heads of the four triggers: one with a transition table stands for one event only."""


def feed_triggers(target: str, table: Table) -> tuple[str, ...]:
    """Return the statements that attach the feed to production's table; they can run again.

    The promoter is told apart in the trigger's WHEN, which is evaluated as the writer: inside the function the current
    user is always its owner.
    """
    arguments = ", ".join(
        quote_literal(argument)
        for argument in (target, table.name, *map(production_name, (table.company, *table.key_parts)))
    )
    return tuple(
        f"CREATE OR REPLACE TRIGGER {name} {head.format(relation(target, table.name))} "
        f"FOR EACH STATEMENT WHEN (current_user <> {quote_literal(PROMOTER)}) "
        f"EXECUTE FUNCTION localstore.record_changes({arguments})"
        for name, head in FEED_TRIGGERS.items()
    )
