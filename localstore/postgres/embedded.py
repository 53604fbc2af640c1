"""A store's own PostgreSQL, `--to embedded`: one kept cluster a store, shared by all commands that use it at once.

<data>/.postgres/server.json   where the cluster is, its port and its superuser's password (0600)
<data>/.postgres/users.lock    held shared by every command that uses the server; the keeper waits for it
<data>/.postgres/start.lock    held alone while someone looks whether the server runs, starts it or stops it

The cluster lies beside them, in <data>/.postgres/cluster. Only where root runs the command it lies in a folder of its
own below the system's temporary one: the store is closed to the unprivileged account that then runs the server.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from localstore.errors import ConfigurationError, PostgresUnavailable
from localstore.postgres.binaries import DEFAULT_VERSION, can_enter, installed, unprivileged_account
from localstore.postgres.cluster import HOST, SUPERUSER, Cluster
from localstore.postgres.locks import FileLock
from localstore.postgres.server import Server

FOLDER = ".postgres"
NEAR = "cluster"
DATABASE = "postgres"
_FORMAT = 1
_T = TypeVar("_T")
_log = logging.getLogger("localstore")


@dataclass(frozen=True, slots=True)
class Description:
    """What `server.json` says.

    `folder` holds the cluster (a relative path moves with the store), `ready` is false until the cluster is whole, and
    `kept` is true from `postgres start` to `postgres stop`.
    """

    version: int
    folder: str
    password: str = field(repr=False)
    port: int | None = None
    ready: bool = False
    kept: bool = False
    format: int = _FORMAT

    @property
    def server(self) -> Server:
        """The server as its superuser reaches it."""
        if self.port is None:
            raise PostgresUnavailable("the embedded server has no port yet", hint="localstore postgres start")
        return Server((HOST,), (self.port,), SUPERUSER, self.password, DATABASE)


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
        return self.folder / "server.json"

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
        try:
            text = self.description_file.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except PermissionError as error:
            raise ConfigurationError(
                f"{self.description_file} belongs to another user", hint="run the command as the user who made it"
            ) from error
        try:
            description = Description(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise ConfigurationError(
                f"{self.description_file} cannot be read", hint=f"move {self.folder} away to start with an empty server"
            ) from error
        if description.format != _FORMAT:
            raise ConfigurationError(
                f"{self.description_file} was written by another version of this program",
                hint="use that version, or move the folder away to start with an empty server",
            )
        return description

    def running(self) -> Server | None:
        """Return the server if it runs, else None; nothing is started or changed."""
        description = self.describe()
        if description is None or not self._is_whole(description):
            return None
        port = self._cluster(description).port()
        return None if port is None else replace(description, port=port).server

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
        description = self._whole_cluster()
        cluster = self._cluster(description)
        if keep and not description.kept:
            # Written before the start: the keeper reads it when the last user leaves.
            description = self._write(replace(description, kept=True))
        port = cluster.port()
        if port is None:
            cluster.stop()
            port = cluster.start(users=self.folder / "users.lock", port=description.port, kept=self.description_file)
        if port != description.port:
            description = self._write(replace(description, port=port))
        return description.server

    def _leave(self) -> None:
        """Stop the server if nobody else uses it, and return when that is done, by whomever."""
        description = self.describe()
        if description is None or description.kept:
            self._users.release()
        elif self._users.try_acquire(shared=False):
            self._cluster(description).stop()
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
            description = self.describe()
            if description is None or not self._is_whole(description):
                return False
            if description.kept:
                description = self._write(replace(description, kept=False))
            cluster = self._cluster(description)
            ran = cluster.pid() is not None
            cluster.stop()
            return ran

    def _erase(self) -> None:
        self._stop()
        description = self.describe()
        if description is not None and (not description.ready or self._is_whole(description)):
            shutil.rmtree(self._path(description), ignore_errors=not description.ready)
        if self.folder.is_dir():
            shutil.rmtree(self.folder)

    def _whole_cluster(self) -> Description:
        """Return the store's cluster, made anew where there is none or where a kill left half of one."""
        description = self.describe()
        if description is not None and self._version not in (None, description.version):
            raise ConfigurationError(
                f"this store's server is PostgreSQL {description.version}, not {self._version}",
                hint="leave the version out, or name another store with --data",
            )
        if description is not None and self._is_whole(description):
            return description
        if description is not None and description.ready:
            _log.warning(
                "the embedded server's folder %s is gone or another store's; an empty server takes its place",
                self._path(description),
            )
        elif description is not None:
            shutil.rmtree(self._path(description), ignore_errors=True)
        version = self._version or (description.version if description else DEFAULT_VERSION)
        installed(version)
        made = Description(
            version=version,
            folder=self._place(),
            password=secrets.token_urlsafe(24),
            kept=description.kept if description else False,
        )
        # Written down first: after a kill the next command removes what is half made.
        self._write(made)
        self._owner(made).write_text(str(self.folder))
        self._cluster(made).create(made.password)
        return self._write(replace(made, ready=True))

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

    def _is_whole(self, description: Description) -> bool:
        """Return whether the cluster described is there and this store's: a copied store has a copied description."""
        folder = self._path(description)
        if not description.ready or not (folder / "data" / "PG_VERSION").is_file():
            return False
        if description.folder == NEAR:
            return True
        owner = self._owner(description)
        named = Path(owner.read_text()) if owner.is_file() else self.folder
        if named == self.folder or (named.exists() and named.samefile(self.folder)):
            return True
        if (named / "server.json").exists():
            return False
        # The store was moved here, and its cluster stayed where it is.
        owner.write_text(str(self.folder))
        return True

    def _path(self, description: Description) -> Path:
        return self.folder / description.folder

    def _owner(self, description: Description) -> Path:
        return self._path(description) / "store"

    def _cluster(self, description: Description) -> Cluster:
        return Cluster(self._path(description), installed(description.version))

    def _write(self, description: Description) -> Description:
        """Replace `server.json` in one step, so that a kill leaves the old or the new one."""
        handle, name = tempfile.mkstemp(dir=self.folder, prefix="server-")
        with os.fdopen(handle, "w") as file:
            json.dump(asdict(description), file)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(self.description_file)
        return description


@asynccontextmanager
async def embedded_server(data: Path | str, *, version: int | None = None) -> AsyncIterator[Server]:
    """Use the store's own server for a block: the running one, or one that is started and stopped at the end."""
    embedded = EmbeddedServer(data, version=version)
    server = await embedded.use()
    try:
        yield server
    finally:
        await embedded.leave()


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
