"""One PostgreSQL data folder of our own: make it, start its server, find it running, stop it. All calls block."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from localstore.errors import PostgresUnavailable
from localstore.postgres import keeper
from localstore.postgres.binaries import Account, Binaries, environment, reachable

SUPERUSER = "postgres"
HOST = "127.0.0.1"
START_SECONDS = 120.0  # Recovery after a power cut reads the whole log again.
STOP_SECONDS = 60.0
_PORTS_TRIED_MAX = 20  # A port found free may be taken by another program a moment later.
_SOCKET_PATH_BYTES_MAX = 100  # The kernel takes 107 on Linux and 103 on macOS.
_POLL_SECONDS = 0.01
_LOG_BYTES_MAX = 8 * 1024 * 1024  # A log longer than this is begun anew at the next start.


@dataclass(frozen=True, slots=True)
class Cluster:
    """A data folder, its log and its socket below `folder`, which belongs to the caller.

    Only `data` and `socket` belong to the account that runs the server, so that nothing that runs under that account
    can plant a file where the caller writes.
    """

    folder: Path
    binaries: Binaries

    @property
    def data(self) -> Path:
        """The data folder proper."""
        return self.folder / "data"

    @property
    def log(self) -> Path:
        """What the server writes to stderr."""
        return self.folder / "log"

    @property
    def socket_folder(self) -> Path | None:
        """The folder of the unix socket, or None where its path would be too long for the kernel."""
        folder = self.folder / "socket"
        usable = len(os.fsencode(folder)) < _SOCKET_PATH_BYTES_MAX - len("/.s.PGSQL.65535")
        return folder if usable and not set(str(folder)) & set(",\"'@") else None

    def create(self, password: str, *, durable: bool = True) -> None:
        """Make the data folder. `durable=False` leaves out the flush to disk, for folders that tests throw away."""
        account = self.binaries.account
        if account is not None:
            # Others may pass through, by which they learn nothing: what is inside has modes of its own.
            self.folder.chmod(0o711)
        for folder in (self.data, self.folder / "socket"):
            folder.mkdir(mode=0o700)
            _give(folder, account)
        secret, name = tempfile.mkstemp(dir=self.folder, prefix="password-")
        try:
            with os.fdopen(secret, "w") as file:
                file.write(password + "\n")
            _give(Path(name), account)
            done = reachable(self.binaries, self.folder).run(
                "initdb",
                *("--no-locale", "--encoding=UTF8", "--auth=scram-sha-256", "--data-checksums", "--no-instructions"),
                *(f"--username={SUPERUSER}", f"--pwfile={name}", f"--pgdata={self.data}"),
                *(() if durable else ("--no-sync",)),
            )
        finally:
            Path(name).unlink()
        if done.returncode != 0:
            raise PostgresUnavailable(
                f"the embedded server's folder {self.data} could not be made: {_last_line(done.stderr)}",
                hint="check the room on the disk and the folder's parents, then run the same command again",
            )

    def start(
        self,
        *,
        users: Path,
        port: int | None = None,
        kept: Path | None = None,
        remove: bool = False,
        settings: Mapping[str, str] | None = None,
    ) -> int:
        """Start the server on loopback and return its port, which is `port` where that one is free.

        The server lives while someone holds a shared lock on the file `users`, or while the JSON file `kept` says so;
        with `remove`, the whole folder goes with it.
        """
        self._clear_stale_pid()
        self.log.touch(mode=0o600)
        if self.log.stat().st_size > _LOG_BYTES_MAX:
            os.truncate(self.log, 0)
        binaries = reachable(self.binaries, self.folder)
        failure = ""
        for attempt in range(_PORTS_TRIED_MAX):
            tried = port if port is not None and attempt == 0 else _free_port()
            begin = self.log.stat().st_size
            answer = self._launch(binaries, tried, users, kept, remove, settings or {})
            if answer is None:
                return tried
            said = self.log.read_bytes()[begin:].decode(errors="replace")
            failure = f"{answer}; {_last_line(said)}"
            if "Address already in use" not in said and "could not create any TCP/IP sockets" not in said:
                break
        raise PostgresUnavailable(
            f"the embedded server in {self.folder} did not start: {failure}", hint=f"read its log: {self.log}"
        )

    def pid(self) -> int | None:
        """Return the running server's process id, or None. A pid file that outlived its server does not count."""
        import psutil  # It comes with the wheel.

        lines = self._pid_file()
        if not lines:
            return None
        try:
            process = psutil.Process(int(lines[0]))
            alive = process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()).samefile(self.data)
        except (ValueError, psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError):
            return None
        return process.pid if alive else None

    def port(self) -> int | None:
        """Return the running server's port, or None where it does not run or is not ready."""
        lines = self._pid_file()
        ready = len(lines) >= 8 and lines[7].strip() == "ready" and self.pid() is not None
        return int(lines[3]) if ready else None

    def stop(self, *, fast: bool = True) -> None:
        """Stop the server and return when it is gone; `fast=False` throws away what is not on disk."""
        pid = self.pid()
        if pid is None:
            return
        for number in (signal.SIGINT if fast else signal.SIGQUIT, signal.SIGQUIT, signal.SIGKILL):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                return
            deadline = time.monotonic() + STOP_SECONDS
            while time.monotonic() < deadline:
                if self.pid() != pid:
                    return
                time.sleep(_POLL_SECONDS)
        raise PostgresUnavailable(
            f"the embedded server (process {pid}) does not stop", hint="look at it with: ps -p " + str(pid)
        )

    def _launch(
        self,
        binaries: Binaries,
        port: int,
        users: Path,
        kept: Path | None,
        remove: bool,
        settings: Mapping[str, str],
    ) -> str | None:
        """Have a keeper start the server; return why it did not come up, or None when it did."""
        sockets = self.socket_folder
        given = {
            "listen_addresses": HOST,
            "port": str(port),
            "unix_socket_directories": "" if sockets is None else str(sockets),
            "log_timezone": "UTC",
            "timezone": "UTC",
            # Values of rows belong into no log, and a statement that failed may hold them.
            "log_min_error_statement": "panic",
            "log_error_verbosity": "terse",
            **settings,
        }
        account = binaries.account
        request = {
            "command": [
                binaries.program("postgres"),
                *("-D", str(self.data)),
                *(argument for name, value in given.items() for argument in ("-c", f"{name}={value}")),
            ],
            "uid": None if account is None else account.uid,
            "gid": None if account is None else account.gid,
            "environment": dict(environment()),
            "data": str(self.data),
            "log": str(self.log),
            "users": str(users),
            "kept": None if kept is None else str(kept),
            "remove": str(self.folder) if remove else None,
            "seconds": START_SECONDS,
        }
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(Path(keeper.__file__))],
            input=json.dumps(request).encode(),
            capture_output=True,
            check=False,
        )
        if not done.stdout:
            return f"its keeper said: {_last_line(done.stderr.decode(errors='replace'))}"
        failure = json.loads(done.stdout)["failure"]
        return None if failure is None else str(failure)

    def _pid_file(self) -> list[str]:
        try:
            return (self.data / "postmaster.pid").read_text().splitlines()
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _clear_stale_pid(self) -> None:
        """Remove a pid file whose number now belongs to another program; Postgres would take it for a server."""
        if self._pid_file() and self.pid() is None:
            (self.data / "postmaster.pid").unlink(missing_ok=True)


def _give(path: Path, account: Account | None) -> None:
    if account is not None:
        os.chown(path, account.uid, account.gid)


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    fatal = [line for line in lines if "FATAL" in line or "error:" in line.lower()]
    return (fatal or lines or ["it said nothing"])[-1]
