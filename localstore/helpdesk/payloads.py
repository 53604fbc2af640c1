"""Stories in the shapes that Freshdesk, JIRA and Zendesk send them."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime, timedelta
from html import escape
from typing import Any

from localstore.helpdesk.scenes import Language, Scene
from localstore.helpdesk.stories import FIRST_TICKET, Company, Person, Story


def iso(moment: datetime) -> str:
    """Return the moment as most help desks write it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _html(text: str) -> str:
    return "<div>" + escape(text, quote=False).replace("\n", "<br>") + "</div>"


def _freshdesk(_company: Company, story: Story, chance: random.Random) -> tuple[str, dict[str, Any]]:
    customer, agent = story.customer, story.agent
    number = 1_000 + story.number
    conversations: list[dict[str, Any]] = [
        {
            "id": number * 100 + place,
            "body": _html(message.text),
            "body_text": message.text,
            "incoming": message.author == customer,
            "private": message.private,
            "source": 2 if message.private else 0,
            "user_id": message.author.number,
            "from_email": f"{message.author.name} <{message.author.email}>",
            "ticket_id": number,
            "created_at": iso(message.at),
            "updated_at": iso(message.at),
            "attachments": [],
        }
        for place, message in enumerate(story.messages, 1)
    ]
    return str(number), {
        "id": number,
        "subject": story.title,
        "description": _html(story.body),
        "description_text": story.body,
        "status": (2, 3, 4, 5)[story.progress],
        "priority": story.urgency,
        "source": chance.choice((1, 2, 3, 7)),
        "type": chance.choice(("Question", "Incident", "Problem", None)),
        "company_id": 51_000_000_000 + customer.number,
        "requester_id": customer.number,
        "requester": {"id": customer.number, "name": customer.name, "email": customer.email},
        "responder_id": agent.number if agent else None,
        "responder": {"id": agent.number, "name": agent.name, "email": agent.email} if agent else None,
        "tags": [story.scene.topic, story.language],
        "custom_fields": {"cf_order": None, "cf_satisfaction": chance.choice((None, 3, 4, 5)), "cf_weight": 1.10},
        "created_at": iso(story.opened),
        "updated_at": iso(story.changed),
        "conversations": conversations,
    }


def _zendesk(company: Company, story: Story, chance: random.Random) -> tuple[str, dict[str, Any]]:
    customer, agent = story.customer, story.agent
    number = 35_000 + story.number
    people = {person.number: person for person in (customer, agent) if person}
    comments = [
        {
            "id": number * 1_000 + place,
            "type": "Comment",
            "author_id": message.author.number,
            "body": message.text,
            "html_body": _html(message.text),
            "public": not message.private,
            "attachments": [],
            "via": {"channel": chance.choice(("email", "web", "api"))},
            "created_at": iso(message.at),
        }
        for place, message in enumerate(story.messages, 1)
    ]
    return str(number), {
        "id": number,
        "url": f"https://{company.name}.example.com/api/v2/tickets/{number}.json",
        "subject": story.title,
        "raw_subject": story.title,
        "description": story.body,
        "status": ("new", "open", "solved", "closed")[story.progress],
        "priority": ("low", "normal", "high", "urgent")[story.urgency - 1],
        "requester_id": customer.number,
        "assignee_id": agent.number if agent else None,
        "users": [
            {
                "id": person.number,
                "name": person.name,
                "email": person.email,
                "role": "end-user" if person == customer else "agent",
            }
            for person in people.values()
        ],
        "tags": [story.scene.topic, company.project.lower()],
        "custom_fields": [{"id": 360_001, "value": story.language}, {"id": 360_002, "value": None}],
        "via": {"channel": "email"},
        "created_at": iso(story.opened),
        "updated_at": iso(story.changed),
        "comments": comments,
    }


def _jira(company: Company, story: Story, chance: random.Random) -> tuple[str, dict[str, Any]]:
    key = f"{company.project}-{story.number}"
    comments = [
        {
            "id": str(200_000 + story.number * 50 + place),
            "author": _jira_user(message.author),
            "body": message.text.replace("\n", "\r\n"),
            "created": _jira_time(message.at),
            "updated": _jira_time(message.at),
        }
        | ({"visibility": {"type": "role", "value": "Developers"}} if message.private else {})
        for place, message in enumerate(story.messages, 1)
    ]
    return key, {
        "id": str(120_000 + story.number),
        "key": key,
        "fields": {
            "issuetype": {"id": "1", "name": chance.choice(("Bug", "Improvement", "Story"))},
            "project": {"key": company.project, "name": company.name.capitalize()},
            "summary": story.title,
            "description": story.body.replace("\n", "\r\n") if chance.random() < 0.95 else None,
            "status": {"name": ("Open", "In Progress", "Resolved", "Closed")[story.progress]},
            "priority": {"name": ("Low", "Medium", "High", "Critical")[story.urgency - 1]},
            "labels": [story.scene.topic],
            "creator": _jira_user(story.customer),
            "reporter": _jira_user(story.customer),
            "assignee": _jira_user(story.agent) if story.agent else None,
            "created": _jira_time(story.opened),
            "updated": _jira_time(story.changed),
            "customfield_10010": chance.choice((None, {"value": "사내", "id": "10200"})),
            "comment": {"comments": comments, "total": len(comments), "startAt": 0},
        },
    }


def _jira_time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.000+0000")


def _jira_user(person: Person) -> dict[str, Any]:
    return {
        "name": f"u{person.number}",
        "key": f"u{person.number}",
        "displayName": person.name,
        "emailAddress": person.email,
        "active": True,
    }


def summary(company: Company, story: Story, name: str) -> dict[str, Any]:
    """Return the record of a ticket's summary."""
    return {
        "company_id": company.name,
        "platform": company.platform,
        "item_id": name,
        "summary": {
            "problem": story.title,
            "cause": story.scene.cause,
            "resolution": story.messages[-1].text if story.messages else None,
            "language": story.language,
            "confidence": round(0.7 + (story.number % 30) / 100, 2),
        },
        "created_at": iso(story.changed + timedelta(hours=1)),
    }


def article(company: Company, language: Language, scene: Scene, number: int) -> tuple[str, dict[str, Any]]:
    """Return an article of the knowledge base and its file's name."""
    text = f"{scene.article}\n\n{scene.cause}."
    written = FIRST_TICKET + timedelta(days=number)
    name = f"{9_000 + number}" if company.platform != "jira" else f"{company.project}-KB-{number}"
    return name, {
        "id": int(name) if name.isdigit() else name,
        "title": scene.article,
        "description" if company.platform == "freshdesk" else "body": _html(text),
        "description_text": text,
        "locale": language.code,
        "tags": [scene.topic],
        "created_at": iso(written),
        "updated_at": iso(written),
    }


_Shape = Callable[[Company, Story, random.Random], tuple[str, dict[str, Any]]]

# Each help desk's shape, and how far its API indents what it sends.
SHAPES: dict[str, tuple[_Shape, int | None]] = {
    "freshdesk": (_freshdesk, None),
    "jira": (_jira, None),
    "zendesk": (_zendesk, 2),
}
