"""Run one PostgreSQL server for as long as someone uses it: a small program of its own, outliving who started it.

It is started by `cluster.py` as a script, reads one JSON object from stdin, leaves its caller's session, starts the
server, says on stdout how that went, and waits. Whoever uses the server holds a shared lock on the `users` file; once
the keeper gets the lock for itself alone, nobody is left, however they ended, and it stops the server. So a command
that is killed leaves no server behind. It uses the standard library alone: it may run where no package is found.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

_POLL_SECONDS = 0.01
_STOP_SECONDS = 60.0


def main() -> None:
    """Start the server that stdin describes, report, and stay until it ends."""
    request: dict[str, Any] = json.loads(sys.stdin.buffer.read())
    if os.fork():
        os._exit(0)
    os.setsid()
    os.chdir("/")
    server = _start(request)
    failure = _wait_until_ready(server, Path(request["data"]), float(request["seconds"]))
    print(json.dumps({"pid": server.pid, "failure": failure}), flush=True)  # noqa: T201
    silence = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(silence, stream)
    if failure is None:
        signal.signal(signal.SIGTERM, lambda *_: server.send_signal(signal.SIGINT))
        threading.Thread(target=_stop_when_unused, args=(server, request), daemon=True).start()
    server.wait()
    if failure is None and request["remove"]:
        shutil.rmtree(request["remove"], ignore_errors=True)


def _start(request: dict[str, Any]) -> subprocess.Popen[bytes]:
    with Path(request["log"]).open("ab") as log:
        return subprocess.Popen(
            request["command"],
            user=request["uid"],
            group=request["gid"],
            extra_groups=None if request["uid"] is None else [],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=request["environment"],
            umask=0o077,
            start_new_session=True,
        )


def _wait_until_ready(server: subprocess.Popen[bytes], data: Path, seconds: float) -> str | None:
    """Wait until the server writes `ready` into its pid file; return why it never did, else None."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if server.poll() is not None:
            return f"it ended with status {server.returncode}"
        try:
            lines = (data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            lines = []
        if len(lines) >= 8 and lines[0] == str(server.pid) and lines[7].strip() == "ready":
            return None
        time.sleep(_POLL_SECONDS)
    server.send_signal(signal.SIGQUIT)
    return f"it was not ready after {seconds:g} seconds"


def _stop_when_unused(server: subprocess.Popen[bytes], request: dict[str, Any]) -> None:
    users = os.open(request["users"], os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(users, fcntl.LOCK_EX)
    if request["kept"] is not None and _is_kept(Path(request["kept"])):
        os.close(users)
        return
    # The lock is held until this process ends, so the next user waits until the server is gone.
    server.send_signal(signal.SIGINT)
    try:
        server.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        server.send_signal(signal.SIGQUIT)


def _is_kept(description: Path) -> bool:
    try:
        return bool(json.loads(description.read_bytes())["kept"])
    except (OSError, ValueError, KeyError):
        return False


if __name__ == "__main__":
    main()
