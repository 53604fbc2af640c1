"""One interface, whatever holds the data: STORAGE_TYPE, DATA_PATH and DATABASE_URL decide, the program does not."""

from __future__ import annotations

import asyncio

from localstore import get_storage

storage = get_storage()
ticket_data = {"id": 42, "subject": "It beeps", "status": 4, "created_at": "2024-01-02T03:04:05Z"}


async def main() -> None:
    """Save, list, and ask how far processing has come."""
    ticket_id = await storage.save_ticket("wedosoft", "freshdesk", ticket_data)
    tickets = await storage.list_tickets("wedosoft", "freshdesk", status="resolved")
    print("resolved:", [ticket["ticket_id"] for ticket in tickets])
    await storage.update_processing_status("wedosoft", "freshdesk", ticket_id, "completed")
    await storage.save_summary("wedosoft", "freshdesk", ticket_id, {"text": "A device that beeps."})
    progress = await storage.get_processing_progress("wedosoft", "freshdesk")
    print("processed:", progress["processed_tickets"], "of", progress["total_tickets"])


if __name__ == "__main__":
    asyncio.run(main())
