"""Believable help-desk data, the same for the same seed: for demonstrations, tests and measurements."""

from __future__ import annotations

import json
import random
from datetime import timedelta
from pathlib import Path
from typing import Any

from localstore.helpdesk.payloads import SHAPES, article, iso, summary
from localstore.helpdesk.stories import FIRST_TICKET, Company, company_at, scenes_of, tell

_SUMMARY_SHARE = 0.6


def generate(directory: Path, *, seed: int, companies: int = 3, tickets: int = 200) -> None:
    """Write the JSON layout of `companies` companies below `directory`, with `tickets` tickets each.

    The same arguments write the same bytes. The companies' help desks are Freshdesk, JIRA and Zendesk in turn.
    """
    for place in range(companies):
        company = company_at(place)
        chance = random.Random(f"{seed}/{place}")  # noqa: S311  (nothing here is secret)
        _write_company(directory / company.name / company.platform, company, chance, tickets)


def _write_company(folder: Path, company: Company, chance: random.Random, tickets: int) -> None:
    shape, indent = SHAPES[company.platform]
    moment = FIRST_TICKET
    processed = 0
    for number in range(1, tickets + 1):
        moment += timedelta(minutes=chance.randint(3, 240), seconds=chance.randint(0, 59))
        story = tell(company, number, moment, chance)
        name, payload = shape(company, story, chance)
        _write(folder / "tickets" / f"{name}.json", payload, indent)
        if story.progress >= 2 and chance.random() < _SUMMARY_SHARE:
            processed += 1
            _write(folder / "summaries" / f"{name}.json", summary(company, story, name), indent)
    for number, (language, scene) in enumerate(scenes_of(company), 1):
        name, payload = article(company, language, scene, number)
        _write(folder / "knowledge_base" / f"{name}.json", payload, indent)
    progress = {
        "total_tickets": tickets,
        "processed_tickets": processed,
        "failed_tickets": 0,
        "progress_percentage": round(100 * processed / tickets, 2) if tickets else 0.0,
        "last_updated": iso(moment),
    }
    _write(folder / "progress" / "progress.json", progress, indent)


def _write(path: Path, payload: dict[str, Any], indent: int | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(json.dumps(payload, ensure_ascii=False, indent=indent).encode())
