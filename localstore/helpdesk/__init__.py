"""The first domain: a help desk's tickets, conversations, knowledge base and processing progress."""

from localstore.helpdesk.models import Conversation, KnowledgeArticle, ProcessingProgress, Ticket, natural_id

__all__ = ["Conversation", "KnowledgeArticle", "ProcessingProgress", "Ticket", "natural_id"]
