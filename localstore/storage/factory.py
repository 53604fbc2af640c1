"""Which storage an application gets: the one that the environment names."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from threading import Lock

from localstore.config import Settings
from localstore.errors import ConfigurationError
from localstore.storage.interface import StorageInterface

ENTRY_POINTS = "localstore.storage"
"""The group in which a package names its storages: `type = "module:Class"`, a StorageInterface."""


class StorageFactory:
    """Makes storages by the settings; backends are found by their entry points."""

    @staticmethod
    def create_storage(settings: Settings | None = None) -> StorageInterface:
        """Return a new storage of STORAGE_TYPE; nothing is opened. Raises ConfigurationError, which is a ValueError."""
        settings = settings or Settings.from_environment()
        wanted = settings.storage_type.value
        found = _backends().get(wanted)
        if found is None:
            raise ConfigurationError(
                f"STORAGE_TYPE={wanted} is not supported here",
                hint=f"choose from: {', '.join(StorageFactory.get_supported_types())}",
            )
        backend: type[StorageInterface] = found.load()
        return backend.from_settings(settings)

    @staticmethod
    def get_supported_types() -> list[str]:
        """Return what STORAGE_TYPE can be, sorted."""
        return sorted(_backends())


def get_storage() -> StorageInterface:
    """Return the process's storage, the same one until it is closed or the environment says something else."""
    global _current  # noqa: PLW0603 - one storage a process is what this function is for
    settings = Settings.from_environment()
    with _lock:
        if _current is None or _current[0] != settings or _current[1].closed:
            _current = (settings, StorageFactory.create_storage(settings))
        return _current[1]


_lock = Lock()
_current: tuple[Settings, StorageInterface] | None = None


def _backends() -> dict[str, EntryPoint]:
    return {entry_point.name: entry_point for entry_point in entry_points(group=ENTRY_POINTS)}
