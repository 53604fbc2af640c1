"""A real PgBouncer in transaction mode between the tests and their server."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from localstore.postgres.binaries import environment, unprivileged_account
from localstore.postgres.connect import Server

PROGRAM = shutil.which("pgbouncer", path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin")))
NO_POOLER = "no pgbouncer on this machine"

SERVERS = 2
"""Fewer server connections than clients, so that transactions of many clients share each of them."""


@contextmanager
def pooler_of(logins: Sequence[Server]) -> Iterator[list[Server]]:
    """Run a transaction-mode pooler for these logins, and give them as they are behind it."""
    assert PROGRAM is not None
    account = unprivileged_account()
    folder = Path(tempfile.mkdtemp(prefix="localstore-test-"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    first = logins[0]
    users = "".join(f'"{login.user}" "{login.password}"\n' for login in logins)
    settings = f"""
[databases]
* = host={first.hosts[0]} port={first.ports[0]}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = plain
auth_file = {folder}/users
pool_mode = transaction
default_pool_size = {SERVERS}
max_client_conn = 200
server_reset_query =
"""
    for name, text in (("users", users), ("ini", settings)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o600)
    if account is not None:
        for path in (folder, *folder.iterdir()):
            os.chown(path, account.uid, account.gid)
    with (folder / "log").open("wb") as log:
        running = subprocess.Popen(
            [PROGRAM, str(folder / "ini")],
            user=None if account is None else account.uid,
            group=None if account is None else account.gid,
            extra_groups=None if account is None else [],
            env=environment(),
            stdout=log,
            stderr=log,
        )
    try:
        _wait(running, port, folder / "log")
        yield [replace(login, hosts=("127.0.0.1",), ports=(port,)) for login in logins]
    finally:
        running.kill()
        running.wait()
        shutil.rmtree(folder)


def _wait(running: subprocess.Popen[bytes], port: int, log: Path) -> None:
    while running.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except ConnectionRefusedError:
            time.sleep(0.01)
        else:
            return
    raise AssertionError(log.read_text())
