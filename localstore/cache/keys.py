"""The keys of a cache: every one begins with its company, and no key can be read as another company's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from localstore.errors import InvalidIdentifier
from localstore.identifiers import check_platform, check_tenant_id, preview

KEY_BYTES_MAX: Final = 1024
"""Long enough for a call with its arguments; a longer one is a value by itself."""


@dataclass(frozen=True, slots=True)
class Namespace:
    """The keys of one platform of a company, or those that belong to no platform.

    Full keys are `{company_id}:{platform}:{key}`. Ids hold no colon, so the first two tell where the key begins, and
    whatever is in the key itself changes neither. A platform is never empty and never begins with `~`, which leaves
    room for the keys that belong to no platform and for locks.
    """

    company_id: str
    platform: str = ""

    def __post_init__(self) -> None:
        """Refuse ids that break the naming rules."""
        check_tenant_id(self.company_id)
        if self.platform:
            check_platform(self.platform)

    @property
    def prefix(self) -> str:
        """Return what every key of this namespace begins with."""
        return f"{self.company_id}:{self.platform}:"

    @property
    def company_prefix(self) -> str:
        """Return what every key of the company begins with."""
        return f"{self.company_id}:"

    def key(self, key: str) -> str:
        """Return the full key; raises InvalidIdentifier for what cannot be a key."""
        return self.prefix + check_key(key)

    def lock(self, key: str) -> str:
        """Return the full key of the lock under which the key's value is computed."""
        return f"{self.company_id}:~lock:{self.platform}:{key}"


def check_key(key: str) -> str:
    """Return `key` when it can be one: any text that UTF-8 can hold, up to KEY_BYTES_MAX bytes of it."""
    try:
        if len(key.encode()) <= KEY_BYTES_MAX:
            return key
    except (UnicodeEncodeError, AttributeError):
        pass
    raise InvalidIdentifier(
        f"{preview(key)} cannot be a cache key", hint=f"give a text of at most {KEY_BYTES_MAX} bytes in UTF-8"
    )
