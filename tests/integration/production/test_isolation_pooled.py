"""Every claim about an application's isolation once more, with a transaction-mode pooler between it and production."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import asyncpg
import pytest

from localstore.postgres.connect import Server, connection_to
from tests.integration.pooler import NO_POOLER, PROGRAM, pooler_of
from tests.integration.production.conftest import World
from tests.integration.production.test_isolation_app import *  # noqa: F403  (the claims are the same ones)

pytestmark = pytest.mark.skipif(PROGRAM is None, reason=NO_POOLER)


@pytest.fixture  # type: ignore[no-redef]  # This one stands in for the imported one.
async def app(world: World, login: Callable[..., str]) -> AsyncIterator[asyncpg.Connection]:
    """Give the connection of a login that is only a member of `app_user`, behind the pooler."""
    with pooler_of([Server.parse(login("app_user"))]) as (pooled,):
        async with connection_to(pooled) as connection:
            yield connection
