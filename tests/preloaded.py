"""What the server of processes imports once, so that none of its children has to."""

from __future__ import annotations

import asyncpg  # noqa: F401
import pytest  # noqa: F401
import stamina  # noqa: F401

import localstore.blobs.file_index
import localstore.blobs.local_objects
import localstore.cli.backup
import localstore.cli.blobs
import localstore.cli.interchange
import localstore.cli.postgres
import localstore.cli.schema
import localstore.cli.store
import localstore.evolution
import localstore.helpdesk.models
import localstore.sqlite.rows
import localstore.sqlite.session
import localstore.storage.places  # noqa: F401
import sync.blobs.place
import sync.cli
import sync.cli.demo
import sync.schema.compare
import sync.steps.verify  # noqa: F401
import tests.faults.killing  # noqa: F401
