"""Who may read a store: folders 0700, files 0600; loosened modes are tightened, and that is said once."""

from __future__ import annotations

import logging
import stat
from pathlib import Path

from localstore.errors import ForeignFile, StoreError

FOLDER_MODE = 0o700
FILE_MODE = 0o600

_log = logging.getLogger("localstore")


def make_folder(folder: Path) -> bool:
    """Make a private folder and its parents where they are missing; return whether it was missing."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir(mode=FOLDER_MODE)
    except FileExistsError:
        check_folder(folder)
        return False
    return True


def check_folder(folder: Path) -> None:
    """Raise ForeignFile when the folder is a link or no folder at all."""
    if not stat.S_ISDIR(folder.lstat().st_mode):
        raise ForeignFile(f"{folder} is not a folder", hint="a store's folders cannot be links; move the data itself")


def tighten(path: Path, mode: int) -> None:
    """Take from `path` every permission that `mode` does not give; a missing path is left alone."""
    try:
        found = path.lstat().st_mode
    except FileNotFoundError:
        return
    excess = stat.S_IMODE(found) & ~mode
    if not excess or stat.S_ISLNK(found):
        return
    try:
        path.chmod(stat.S_IMODE(found) & mode)
    except PermissionError as error:
        raise StoreError(
            f"others may read {path} (mode {stat.S_IMODE(found):o}) and it belongs to another user",
            hint=f"run `chmod {mode:o} '{path}'` as its owner",
        ) from error
    _log.warning("%s could be used by others (mode %o); its mode is now %o", path, stat.S_IMODE(found), mode)


def tighten_tenant(folder: Path) -> None:
    """Tighten a tenant's folder, the folders in it and its database."""
    check_folder(folder)
    tighten(folder, FOLDER_MODE)
    for name in ("blobs", "cache", "outbox"):
        tighten(folder / name, FOLDER_MODE)
    for name in ("store.db", "store.db-wal", "store.db-shm", "store.lock", "sweep.lock"):
        tighten(folder / name, FILE_MODE)
