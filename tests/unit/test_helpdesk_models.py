"""The help desk's tables: natural keys, nothing else required, everything led by the company."""

from __future__ import annotations

import pytest

from localstore.helpdesk import Conversation, KnowledgeArticle, ProcessingProgress, Ticket, natural_id
from localstore.models import TenantModel
from localstore.schema.reflect import table_from_model
from localstore.schema.tables import Kind

KEYS: dict[type[TenantModel], tuple[str, ...]] = {
    Ticket: ("company_id", "platform", "ticket_id"),
    Conversation: ("company_id", "platform", "ticket_id", "conversation_id"),
    KnowledgeArticle: ("company_id", "platform", "article_id"),
    ProcessingProgress: ("company_id", "platform"),
}


@pytest.mark.parametrize("model", KEYS)
def test_keys_are_natural_and_only_they_are_required(model: type[TenantModel]) -> None:
    """A row is named by what the help desk calls it, and a shell may leave out all else."""
    table = table_from_model(model)
    assert table.key == KEYS[model]
    assert {column.name for column in table.columns if not column.nullable} == set(KEYS[model])


@pytest.mark.parametrize("model", KEYS)
def test_R13_R14_indexes_and_foreign_keys_are_led_by_the_company(model: type[TenantModel]) -> None:
    """Nothing finds or references a row without naming its company first."""
    table = table_from_model(model)
    assert all(index.columns[0] == "company_id" for index in table.indexes)
    assert all(unique[0] == "company_id" for unique in table.uniques)
    assert all(key.columns[0] == key.parent_columns[0] == "company_id" for key in table.foreign_keys)


def test_payloads_are_json_and_times_are_times() -> None:
    """The kinds decide production's types: jsonb for payloads, timestamptz for times."""
    kinds = {column.name: column.kind for column in table_from_model(Ticket).columns}
    json_columns = {name for name, kind in kinds.items() if kind is Kind.JSON}
    assert json_columns == {"tags", "custom_fields", "summary", "raw_data", "processed_data", "raw_summary"}
    assert {kinds["created_at"], kinds["updated_at"]} == {Kind.TIMESTAMP}
    assert kinds["is_processed"] is Kind.BOOLEAN
    assert kinds["id"] is Kind.UUID


def test_the_id_follows_from_the_key_whenever_its_last_part_comes() -> None:
    """The id is there as soon as the key is whole, and follows when a part of it changes."""
    ticket = Ticket(platform="jira", ticket_id="A-1")
    assert getattr(ticket, "id", "") is None
    ticket.company_id = "acme"
    assert ticket.id == natural_id("tickets", "acme", "jira", "A-1")
    ticket.ticket_id = "A-2"
    assert ticket.id == Ticket(company_id="acme", platform="jira", ticket_id="A-2").id
    assert natural_id("tickets", "a", "b", "c") != natural_id("knowledge_base", "a", "b", "c")


def test_the_id_of_a_key_never_changes() -> None:
    """Ids are in production already, so the rule that makes them is fixed for good."""
    assert str(natural_id("tickets", "x", "jira", "A-1")) == "7efe1d36-3100-575d-97f0-baa392838536"
