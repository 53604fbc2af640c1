"""How many objects a command moved, and how many it could not."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Tally:
    """Counted while objects move, so that a command that is tried again counts what it moved before, too.

    `bytes` are those moved, either way. `missing` are objects that no place has whole, so that their rows wait.
    """

    uploaded: int = 0
    downloaded: int = 0
    bytes: int = 0
    missing: set[str] = field(default_factory=set)

    def to_json(self) -> dict[str, int]:
        """Return the counts by name."""
        return {
            "uploaded": self.uploaded,
            "downloaded": self.downloaded,
            "bytes": self.bytes,
            "missing": len(self.missing),
        }
