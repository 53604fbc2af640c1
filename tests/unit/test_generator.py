"""The generator of help-desk data: the same for the same seed, varied, and readable by the import."""

from __future__ import annotations

import json
from pathlib import Path

from localstore.helpdesk.generate import generate
from localstore.interchange.document import parse
from localstore.interchange.mapping import map_ticket, ticket_id


def _contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*.json")}


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    """Two runs agree to the byte; another seed tells other stories."""
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        generate(tmp_path / name, seed=seed, tickets=30)
    assert _contents(tmp_path / "a") == _contents(tmp_path / "b")
    assert _contents(tmp_path / "a") != _contents(tmp_path / "c")


def test_every_ticket_is_understood(tmp_path: Path) -> None:
    """Each generated ticket has an id, a title, a status, a requester and times, and its file is named by its id."""
    generate(tmp_path, seed=1, companies=4, tickets=60)
    tickets = list(tmp_path.glob("*/*/tickets/*.json"))
    assert len(tickets) == 240
    for path in tickets:
        payload = parse(path.read_text(encoding="utf-8"))
        assert ticket_id(payload, "stem") == path.stem
        columns = map_ticket(payload, path.parts[-3]).columns
        assert None not in [columns[name] for name in ("title", "status", "priority", "requester_email", "created_at")]
        assert columns["requester_email"].endswith("@example.com")


def test_the_data_is_varied(tmp_path: Path) -> None:
    """The data holds what real help desks hold: several scripts, emoji, CRLF, long bodies, private notes, threads."""
    generate(tmp_path, seed=3, tickets=200)
    texts = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(tmp_path.glob("*/*/tickets/*.json"))]
    mapped = [map_ticket(payload, "freshdesk" if "source" in payload else "other") for payload in texts]
    bodies = "".join(ticket.columns["description"] or "" for ticket in mapped)
    for sample in ("ß", "요", "ます", "¿", "\r\n", "🔋", "\t"):
        assert sample in bodies
    assert max(len(ticket.columns["description"] or "") for ticket in mapped) > 20_000
    assert len({ticket.columns["title"] for ticket in mapped}) > 100
    messages = [message for ticket in mapped for message in ticket.conversations.values()]
    assert {message["message_type"] for message in messages} >= {"public", "private"}
    assert {message["author_type"] for message in messages} == {"agent", "customer"}
    assert max(len(ticket.conversations) for ticket in mapped) >= 4


def test_nothing_of_the_templates_is_left_in_the_text(tmp_path: Path) -> None:
    """No placeholder survives into a ticket, a summary or an article."""
    generate(tmp_path, seed=5, tickets=100)
    for path in tmp_path.rglob("*.json"):
        text = path.read_text(encoding="utf-8")
        assert not any(f"{{{name}}}" in text for name in ("product", "version", "order", "city", "code", "days"))
        assert "{customer}" not in text
        assert "{agent}" not in text
