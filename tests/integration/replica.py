"""A real streaming replica of the tests' server, made by pg_basebackup from the same programs."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from localstore.postgres.binaries import reachable
from localstore.postgres.cluster import Cluster
from localstore.postgres.connect import Server
from tests.conftest import FLEETING, _binaries, _remove


@dataclass(slots=True)
class Standby:
    """A replica that can be stopped and started again."""

    cluster: Cluster
    users: Path
    port: int = 0

    def of(self, server: Server) -> Server:
        """Return where the replica has the same database for the same login."""
        return replace(server, ports=(self.port,))

    def stop(self) -> None:
        """Stop the replica."""
        self.cluster.stop()

    def start(self) -> None:
        """Start the replica, where it was before if it was anywhere."""
        self.port = self.cluster.start(users=self.users, port=self.port or None, settings=FLEETING)


@contextmanager
def standby_of(primary: Server) -> Iterator[Standby]:
    """Copy a running server and let the copy follow it until the end of the block."""
    folder = Path(tempfile.mkdtemp(prefix="localstore-test-"))
    cluster = Cluster(folder, _binaries(os.environ.get("LOCALSTORE_TEST_POSTGRES", "18")))
    users = os.open(folder / "users.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(users, fcntl.LOCK_SH)
    standby = Standby(cluster, folder / "users.lock")
    try:
        _copy(primary, cluster)
        standby.start()
        yield standby
    finally:
        cluster.stop(fast=False)
        os.close(users)
        _remove(folder)


def _copy(primary: Server, cluster: Cluster) -> None:
    """Make the data folder a copy that knows how to follow; the password goes by a file, not by an argument."""
    cluster.create(secrets.token_urlsafe(8), durable=False)
    account = cluster.binaries.account
    shutil.rmtree(cluster.data)
    cluster.data.mkdir(mode=0o700)
    secret = cluster.folder / "socket" / "password"
    secret.write_text(f"*:*:*:*:{primary.password}\n")
    secret.chmod(0o600)
    for path in (cluster.data, secret):
        if account is not None:
            os.chown(path, account.uid, account.gid)
    done = reachable(cluster.binaries, cluster.folder).run(
        "pg_basebackup",
        *("--checkpoint=fast", "--wal-method=stream", "--write-recovery-conf", "--no-sync"),
        f"--pgdata={cluster.data}",
        f"--dbname=host={primary.hosts[0]} port={primary.ports[0]} user={primary.user} passfile={secret}",
    )
    assert done.returncode == 0, done.stderr
