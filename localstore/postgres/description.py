"""What a store writes down about its own server: where the cluster is, whose it is, and how to log in."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

from localstore.errors import ConfigurationError, PostgresUnavailable
from localstore.postgres.cluster import HOST, SUPERUSER
from localstore.postgres.server import Server

FILE = "server.json"
NEAR = "cluster"
DATABASE = "postgres"
_FORMAT = 1


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


def read(folder: Path) -> Description | None:
    """Return what the store's `.postgres` folder says of its server, or None where it says nothing."""
    file = folder / FILE
    try:
        text = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        raise ConfigurationError(
            f"{file} belongs to another user", hint="run the command as the user who made it"
        ) from error
    try:
        description = Description(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise ConfigurationError(
            f"{file} cannot be read", hint=f"move {folder} away to start with an empty server"
        ) from error
    if description.format != _FORMAT:
        raise ConfigurationError(
            f"{file} was written by another version of this program",
            hint="use that version, or move the folder away to start with an empty server",
        )
    return description


def write(folder: Path, description: Description) -> Description:
    """Replace what the folder says in one step, so that a kill leaves the old or the new, and return the new."""
    handle, name = tempfile.mkstemp(dir=folder, prefix="server-")
    with os.fdopen(handle, "w") as file:
        json.dump(asdict(description), file)
        file.flush()
        os.fsync(file.fileno())
    Path(name).replace(folder / FILE)
    return description


def claim(folder: Path, description: Description) -> None:
    """Write into the cluster's folder whose it is."""
    (folder / description.folder / "store").write_text(str(folder))


def is_ours(folder: Path, description: Description) -> bool:
    """Return whether the cluster described belongs to this store: a copied store has a copied description.

    The cluster of a store that was moved is claimed for the place where the store is now.
    """
    if description.folder == NEAR:
        return True
    owner = folder / description.folder / "store"
    if not owner.is_file():
        return False
    named = Path(owner.read_text())
    if named == folder or (named.exists() and named.samefile(folder)):
        return True
    if (named / FILE).exists():
        return False
    claim(folder, description)
    return True
