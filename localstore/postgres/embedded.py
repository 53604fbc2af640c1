"""A store's own PostgreSQL, `--to embedded`: one kept cluster a store, shared by all commands that use it at once.

<data>/.postgres/server.json   where the cluster is, its port and its superuser's password (0600)
<data>/.postgres/users.lock    held shared by every command that uses the server; the keeper waits for it
<data>/.postgres/start.lock    held alone while someone looks whether the server runs, starts it or stops it

The cluster lies beside them, in <data>/.postgres/cluster. Only where root runs the command it lies in a folder of its
own below the system's temporary one: the store is closed to the unprivileged account that then runs the server.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from localstore.errors import ConfigurationError
from localstore.postgres import description
from localstore.postgres.binaries import DEFAULT_VERSION, can_enter, installed, unprivileged_account
from localstore.postgres.cluster import Cluster
from localstore.postgres.description import FILE, NEAR, Description
from localstore.postgres.locks import FileLock
from localstore.postgres.server import Server

FOLDER = ".postgres"
_T = TypeVar("_T")
_log = logging.getLogger("localstore")


class EmbeddedServer:
    """The PostgreSQL of one store. `version=None` takes what the store has, or makes the newest."""

    def __init__(self, data: Path | str, *, version: int | None = None) -> None:
        self.data = Path(data).absolute()
        self.folder = self.data / FOLDER
        self._version = version
        self._users = FileLock(self.folder / "users.lock")

    @property
    def description_file(self) -> Path:
        """The file that says where the cluster is and how to log in."""
        return self.folder / FILE

    async def start(self) -> Server:
        """Start the server, unless it runs, and leave it running until `stop`, also after this process ends."""
        return await _to_the_end(lambda: self._use(keep=True), self._leave)

    async def stop(self) -> bool:
        """Stop the server, whoever uses it; return whether it ran. Its data stay."""
        return await asyncio.to_thread(self._stop)

    async def use(self) -> Server:
        """Take part in the server, starting it if need be, until `leave`. Doing it twice is harmless."""
        return await _to_the_end(lambda: self._use(keep=False), self._leave)

    async def leave(self) -> None:
        """Give the server up; the last one to leave stops it, unless `start` was told to keep it."""
        await _to_the_end(self._leave, lambda: None)

    async def erase(self) -> None:
        """Stop the server and remove its data for good."""
        await asyncio.to_thread(self._erase)

    def describe(self) -> Description | None:
        """Return what is written down about the store's cluster, or None where there is none."""
        return description.read(self.folder)

    def running(self) -> Server | None:
        """Return the server if it runs, else None; nothing is started or changed."""
        found = self.describe()
        if found is None or not self._is_whole(found):
            return None
        port = self._cluster(found).port()
        return None if port is None else replace(found, port=port).server

    def _use(self, *, keep: bool) -> Server:
        try:
            self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.folder.mkdir(mode=0o700, exist_ok=True)
            self._users.acquire(shared=True)
            with FileLock(self.folder / "start.lock"):
                return self._running_or_started(keep=keep)
        except BaseException as error:
            self._users.release()
            if isinstance(error, OSError):
                raise _of_system(error, self.folder) from error
            raise
        finally:
            if keep:
                self._users.release()

    def _running_or_started(self, *, keep: bool) -> Server:
        found = self._whole_cluster()
        cluster = self._cluster(found)
        if keep and not found.kept:
            # Written before the start: the keeper reads it when the last user leaves.
            found = description.write(self.folder, replace(found, kept=True))
        port = cluster.port()
        if port is None:
            cluster.stop()
            port = cluster.start(users=self.folder / "users.lock", port=found.port, kept=self.description_file)
        if port != found.port:
            found = description.write(self.folder, replace(found, port=port))
        return found.server

    def _leave(self) -> None:
        """Stop the server if nobody else uses it, and return when that is done, by whomever."""
        found = self.describe()
        if found is None or found.kept:
            self._users.release()
        elif self._users.try_acquire(shared=False):
            try:
                self._cluster(found).stop()
            finally:
                self._users.release()
        else:
            # Either others use the server, and a shared lock can be had at once, or its keeper is stopping it, and
            # that is waited for.
            self._users.acquire(shared=True)
            self._users.release()

    def _stop(self) -> bool:
        if not self.folder.is_dir():
            return False
        with FileLock(self.folder / "start.lock"):
            found = self.describe()
            if found is None or not self._is_whole(found):
                return False
            if found.kept:
                found = description.write(self.folder, replace(found, kept=False))
            cluster = self._cluster(found)
            ran = cluster.pid() is not None
            cluster.stop()
            return ran

    def _erase(self) -> None:
        self._stop()
        found = self.describe()
        if found is not None:
            self._remove(found)
        if self.folder.is_dir():
            shutil.rmtree(self.folder)

    def _whole_cluster(self) -> Description:
        """Return the store's cluster, made anew where there is none or where a kill left half of one."""
        found = self.describe()
        if found is not None and self._version not in (None, found.version):
            raise ConfigurationError(
                f"this store's server is PostgreSQL {found.version}, not {self._version}",
                hint="leave the version out, or name another store with --data",
            )
        if found is not None and self._is_whole(found):
            return found
        if found is not None and found.ready:
            _log.warning(
                "the embedded server's folder %s is gone or another store's; an empty server takes its place",
                self._path(found),
            )
        elif found is not None:
            self._remove(found)
        version = self._version or (found.version if found else DEFAULT_VERSION)
        installed(version)
        kept = found.kept if found else False
        made = Description(version=version, folder=self._place(), password=secrets.token_urlsafe(24), kept=kept)
        # Written down first: after a kill the next command removes what is half made.
        description.write(self.folder, made)
        description.claim(self.folder, made)
        self._cluster(made).create(made.password)
        return description.write(self.folder, replace(made, ready=True))

    def _place(self) -> str:
        """Make the cluster's own folder where the account that runs the server can reach it, and return its path."""
        account = unprivileged_account()
        if account is None:
            shutil.rmtree(self.folder / NEAR, ignore_errors=True)
            (self.folder / NEAR).mkdir(mode=0o700)
            return NEAR
        for parent in dict.fromkeys((tempfile.gettempdir(), "/tmp")):  # noqa: S108 - mkdtemp makes a folder of our own.
            if can_enter(account, Path(parent)):
                return tempfile.mkdtemp(prefix="localstore-postgres-", dir=parent)
        raise ConfigurationError(
            f"no folder for the embedded server can be reached by the user {account.name}",
            hint="set TMPDIR to a folder that every user may enter, or run the command as an ordinary user",
        )

    def _is_whole(self, found: Description) -> bool:
        made = found.ready and (self._path(found) / "data" / "PG_VERSION").is_file()
        return made and description.is_ours(self.folder, found)

    def _remove(self, found: Description) -> None:
        """Remove a cluster, whole or half made, unless it is another store's."""
        if description.is_ours(self.folder, found):
            shutil.rmtree(self._path(found), ignore_errors=True)

    def _path(self, found: Description) -> Path:
        return self.folder / found.folder

    def _cluster(self, found: Description) -> Cluster:
        return Cluster(self._path(found), installed(found.version))


@asynccontextmanager
async def embedded_server(
    data: Path | str, *, version: int | None = None, erase: bool = False
) -> AsyncIterator[Server]:
    """Use the store's own server for a block: the running one, or one that is started and stopped at the end.

    With `erase` its data go, too: for a store that is itself thrown away, since root's cluster lies outside of it.
    """
    embedded = EmbeddedServer(data, version=version)
    server = await embedded.use()
    try:
        yield server
    finally:
        await embedded.leave()
        if erase:
            await embedded.erase()


def _of_system(error: OSError, folder: Path) -> ConfigurationError:
    hint = "run the command as the user who made it, or name another folder with --data"
    return ConfigurationError(f"the embedded server cannot use {folder}: {error.strerror or error}", hint=hint)


async def _to_the_end(work: Callable[[], _T], undo: Callable[[], None]) -> _T:
    """Run blocking work in a thread to its end, also when cancelled, and then undo it: no server stays half started."""
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        if not running.cancelled() and running.exception() is None:
            await asyncio.to_thread(undo)
        raise
