"""What storages answer, made from rows: the same from every backend."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from localstore.columns import parse_json
from localstore.errors import WrongMode
from localstore.interchange.rows import Row
from localstore.interchange.values import time_text

PROCESSED = ("completed", "processed", "done")
FAILED = ("failed", "error")

# Columns that stand in for the payload of a row that was made without one.
_TOLD = (
    "title",
    "description",
    "status",
    "priority",
    "requester_name",
    "requester_email",
    "assignee_name",
    "assignee_email",
    "tags",
    "custom_fields",
)

_NEXT = {
    "file": "set STORAGE_TYPE=file (or hybrid), or `localstore mode advance {}`",
    "hybrid": "set STORAGE_TYPE=hybrid, or `localstore mode advance {}`",
    "advancing": "`localstore mode advance {}` finishes the change, `localstore mode back {}` undoes it",
    "postgresql": "set STORAGE_TYPE=postgresql (or hybrid), or `localstore mode back {}`",
}


def ticket_answer(row: Row) -> dict[str, Any]:
    """Return a ticket: its payload, and on top what the row says."""
    payload = None if row["raw_data"] is None else parse_json(row["raw_data"])
    if not isinstance(payload, dict):
        payload = {name: row[name] for name in _TOLD if row[name] is not None}
    payload |= {
        "company_id": row["company_id"],
        "platform": row["platform"],
        "ticket_id": row["ticket_id"],
        "processing_status": row["processing_status"],
        "created_at": iso(row["created_at"]),
        "updated_at": iso(row["updated_at"]),
    }
    for name in ("processed_data", "summary"):
        if row[name] is not None:
            payload[name] = row[name]
    return payload


def counted_progress(total: int, processed: int, failed: int, last_updated: Any) -> dict[str, Any]:
    """Return the progress that the tickets themselves show."""
    return {
        "total_tickets": total,
        "processed_tickets": processed,
        "failed_tickets": failed,
        "progress_percentage": _percentage(processed, total),
        "last_updated": iso(last_updated),
    }


def told_progress(row: Row) -> dict[str, Any]:
    """Return the progress that was set."""
    total, processed = row["total_items"] or 0, row["processed_items"] or 0
    percentage = row["progress_percentage"]
    return {
        "total_tickets": total,
        "processed_tickets": processed,
        "failed_tickets": row["failed_items"] or 0,
        "progress_percentage": _percentage(processed, total) if percentage is None else float(percentage),
        "last_updated": iso(row["last_updated"]),
    }


def platform_stats(
    tickets: Iterable[tuple[str, int]], articles: Iterable[tuple[str, int]]
) -> dict[str, dict[str, int]]:
    """Return the numbers of items by platform, in order of the platforms."""
    by_kind = {"tickets": dict(tickets), "knowledge_base": dict(articles)}
    stats: dict[str, dict[str, int]] = {}
    for platform in sorted({*by_kind["tickets"], *by_kind["knowledge_base"]}):
        counts = {kind: numbers.get(platform, 0) for kind, numbers in by_kind.items()}
        stats[platform] = counts | {"total": sum(counts.values())}
    return stats


def check_mode(company_id: str, mode: str | None, served: Iterable[str], storage: str) -> None:
    """Raise WrongMode unless a storage of this kind holds the tenant's truth; None is a tenant that is not there."""
    if mode is not None and mode not in served:
        raise WrongMode(
            f"tenant {company_id} is in mode {mode}, where {storage} is not its storage",
            hint=_NEXT.get(mode, "`localstore mode status {}`").replace("{}", company_id),
            tenant=company_id,
        )


def iso(moment: Any) -> Any:
    """Return a time as ISO 8601 in UTC; what another tool wrote and is no time stays as it is."""
    return time_text(moment) if isinstance(moment, datetime) else moment


def _percentage(part: int, whole: int) -> float:
    return round(100 * part / whole, 2) if whole > 0 else 0.0
