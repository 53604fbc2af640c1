"""Help-desk tables in a production, and the same tickets in a store and there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from localstore import LocalStore
from localstore.helpdesk import Conversation, Ticket, production
from localstore.helpdesk.models import KnowledgeArticle, ProcessingProgress
from localstore.helpdesk.repository import TicketRepository
from localstore.postgres.connect import Server, connection_to
from localstore.postgres.pool import Pool
from localstore.schema.reflect import table_from_model
from sync.production import prepare, register

MODELS: tuple[type[Any], ...] = (Ticket, Conversation, KnowledgeArticle, ProcessingProgress)


async def make_tables(url: str, schema: str = "public") -> None:
    """Prepare a production and make the help desk's tables in it."""
    async with connection_to(Server.parse(url)) as connection:
        await prepare(connection, schema)
        await register(connection, schema, [table_from_model(model) for model in MODELS])


async def insert(pool: Pool, rows: Sequence[Any]) -> None:
    """Insert rows of one company into production, as an application does."""
    async with pool.transaction(rows[0].company_id) as connection:
        for row in rows:
            text, values = production.insert(row, "public")
            await connection.fetch(text, *values)


def plain(row: Any) -> dict[str, Any]:
    """Return a row's columns with their exact types, for comparing."""
    values = {column.name: getattr(row, column.name) for column in type(row).__table__.columns}
    return {name: (type(value), value) for name, value in values.items()}


@dataclass(frozen=True, slots=True)
class Both:
    """The same tickets in a store's files and in production, each with its repository."""

    store: LocalStore
    pool: Pool
    file: TicketRepository
    production: TicketRepository

    async def put(self, *rows: Any) -> None:
        """Write rows of one company to both sides."""
        await self.store.tenant(rows[0].company_id).put_many(rows)
        await insert(self.pool, rows)

    async def ask(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Call a method on both sides, see that the answers are the same, and return one."""
        answers = [await getattr(side, method)(*arguments, **options) for side in (self.file, self.production)]
        assert shown(answers[0]) == shown(answers[1])
        return answers[1]


def shown(answer: Any) -> Any:
    """Return an answer with every row in it made plain."""
    if isinstance(answer, Ticket | Conversation):
        return plain(answer)
    if isinstance(answer, dict):
        return {key: shown(value) for key, value in answer.items()}
    if isinstance(answer, list | tuple):
        return [shown(value) for value in answer]
    if hasattr(answer, "conversations"):
        return [plain(answer.ticket), shown(answer.conversations)]
    return answer
