"""What becomes of an error that nobody expected: one of ours, with its name and the way to its traceback."""

from __future__ import annotations

import os
import re
import traceback
from typing import Final

from localstore.errors import LocalStoreError, UnexpectedError

TRACEBACK_VARIABLE: Final = "LOCALSTORE_TRACEBACK"

_CREDENTIALS: Final = re.compile(r"(?<=://)[^\s/@]*:[^\s@]*@")


def ours(error: BaseException) -> LocalStoreError:
    """Return one of our own errors as it is, and any other as an UnexpectedError, so that other tenants go on.

    Its traceback is printed where that was asked for, because whoever gets the result has only the message.
    """
    if isinstance(error, LocalStoreError):
        return error
    if traceback_wanted():
        traceback.print_exception(error)
    # A driver's message may repeat the URL it was given, so credentials are cut out of it.
    message = _CREDENTIALS.sub("…@", str(error)).strip() or "no further message"
    return UnexpectedError(
        f"unexpected {type(error).__name__}: {message.splitlines()[0]}",
        hint=f"set {TRACEBACK_VARIABLE}=1 and run the same command again to see where it happened",
    )


def traceback_wanted() -> bool:
    """Return whether the environment asks for tracebacks."""
    return bool(os.environ.get(TRACEBACK_VARIABLE))
