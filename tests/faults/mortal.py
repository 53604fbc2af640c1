"""A PostgreSQL server of a test's own, which may die at any moment and comes back with all that it had committed."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from localstore.postgres.binaries import installed
from localstore.postgres.cluster import HOST, SUPERUSER, Cluster
from localstore.postgres.server import Server

# A commit must survive the death of the server here; only the machine itself is trusted.
SETTINGS = {"fsync": "off", "max_connections": "30"}


@dataclass
class Mortal:
    """A server to be killed at will; it comes up again on its port."""

    cluster: Cluster
    users: Path
    server: Server

    def start(self) -> None:
        """Start it; recovery is part of that."""
        port = self.cluster.start(users=self.users, port=self.server.ports[0] or None, settings=SETTINGS)
        self.server = Server((HOST,), (port,), SUPERUSER, self.server.password, "postgres")

    def stop(self, *, fast: bool) -> None:
        """Stop it in good order, or at once as `pg_ctl stop -m immediate` does."""
        self.cluster.stop(fast=fast)

    def restart_at_once(self) -> None:
        """Stop it as `pg_ctl stop -m immediate` does, and start it again."""
        self.cluster.stop(fast=False)
        self.start()

    def kill(self) -> None:
        """Kill its first process with SIGKILL, wait until the others have followed it, and start it again."""
        pid = self.cluster.pid()
        assert pid is not None
        children = psutil.Process(pid).children(recursive=True)
        os.kill(pid, signal.SIGKILL)
        _, left = psutil.wait_procs(children, timeout=60)
        assert not left
        self.start()


@contextmanager
def mortal_server() -> Iterator[Mortal]:
    """Run such a server for a block."""
    folder = Path(tempfile.mkdtemp(prefix="localstore-faults-"))
    password = secrets.token_urlsafe(24)
    cluster = Cluster(folder, installed(18))
    users = os.open(folder / "users.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(users, fcntl.LOCK_SH)
    try:
        cluster.create(password, durable=False)
        started = Mortal(cluster, folder / "users.lock", Server((HOST,), (0,), SUPERUSER, password, "postgres"))
        started.start()
        yield started
    finally:
        cluster.stop(fast=False)
        os.close(users)
        shutil.rmtree(folder, ignore_errors=True)
