"""The rules for tenant ids and platforms, which become folder names and keys."""

from __future__ import annotations

import re
from typing import TypeGuard

from localstore.errors import InvalidIdentifier

IDENTIFIER_LENGTH_MAX = 63
"""A folder name, a Postgres setting and a log line all hold this many bytes."""

_IDENTIFIER = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_DEVICE = re.compile(r"con|prn|aux|nul|com[0-9]|lpt[0-9]")
_PREVIEW_LENGTH_MAX = 40


def check_tenant_id(text: str) -> str:
    """Return `text` when it can name a tenant, else raise InvalidIdentifier."""
    return _check(text, "tenant id")


def check_platform(text: str) -> str:
    """Return `text` when it can name a platform, else raise InvalidIdentifier."""
    return _check(text, "platform")


def is_identifier(text: object) -> TypeGuard[str]:
    """Return whether `text` can name a tenant or a platform."""
    # A folder called `con` or `nul` cannot be made, or opens a device, on Windows.
    if not isinstance(text, str):
        return False
    return _IDENTIFIER.fullmatch(text) is not None and _DEVICE.fullmatch(text) is None


def _check(text: object, what: str) -> str:
    if is_identifier(text):
        return text
    raise InvalidIdentifier(
        f"{preview(text)} is not a valid {what}",
        hint=f"use 1 to {IDENTIFIER_LENGTH_MAX} lower-case letters, digits, - and _, "
        "beginning with a letter or digit, and no device name such as con or nul",
    )


def preview(value: object) -> str:
    """Return `value` quoted in printable ASCII, cut to a length that is safe in a message."""
    try:
        shown = ascii(value)
    except ValueError:
        # An integer of more digits than Python writes out.
        return f"<a very long {type(value).__name__}>"
    return shown if len(shown) <= _PREVIEW_LENGTH_MAX else f"{shown[:_PREVIEW_LENGTH_MAX]}…"
