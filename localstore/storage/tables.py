"""The tables that every storage keeps its data in: the help desk's."""

from __future__ import annotations

from localstore.blobs.model import Blob
from localstore.helpdesk import Conversation, KnowledgeArticle, ProcessingProgress, Ticket
from localstore.schema.reflect import table_from_model
from localstore.schema.tables import Table

MODELS = (Ticket, Conversation, KnowledgeArticle, ProcessingProgress)


def storage_tables() -> tuple[Table, ...]:
    """Return the tables as values, for a production that they are to be made in: there, blobs are among them."""
    return tuple(table_from_model(model) for model in (*MODELS, Blob))
