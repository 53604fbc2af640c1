"""What sync does with a tenant's file that is about to change: seal what was written under the shape it had."""

from __future__ import annotations

from localstore.sqlite.database import Database
from sync.status import TARGET, remembered
from sync.steps.seal import seal


async def seal_pending(database: Database) -> None:
    """Seal what is pending, if the tenant was ever pushed: production knows the old shape, and takes it as it is.

    A tenant that was never pushed has nobody who knows its old shape; its changes travel under the new one.
    """
    target = await database.read(lambda file: remembered(file, TARGET))
    if target is not None:
        await seal(database, target)
