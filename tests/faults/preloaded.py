"""What the server of processes imports once, so that none of its children has to."""

from __future__ import annotations

import asyncpg  # noqa: F401
import stamina  # noqa: F401

import localstore.cli.store
import localstore.helpdesk.models  # noqa: F401
import sync.cli
import sync.cli.demo
import sync.steps.verify  # noqa: F401
import tests.faults.killing  # noqa: F401
