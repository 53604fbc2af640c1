"""FileStorageManager: the guidelines' calls, beside the tenants' files and in production with an object store."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr

from localstore import (
    BlobKeyTaken,
    ConfigurationError,
    FileStorageManager,
    InvalidIdentifier,
    LocalStore,
    Settings,
    WrongMode,
    file_storage,
)
from localstore.blobs.s3_objects import S3Objects
from localstore.postgres.server import Server

if TYPE_CHECKING:
    from tests.contract.s3_server import S3Server

pytest_plugins = ["tests.contract.blob_backends"]


@pytest.fixture
def company() -> str:
    """Name a company that nobody else uses."""
    return f"wedosoft-{secrets.token_hex(4)}"


@pytest.fixture(params=["file", "postgresql"])
async def manager(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[FileStorageManager]:
    """Give a manager on one kind of storage after the other."""
    given: dict[str, Any] = {"storage_type": request.param, "data_path": tmp_path / "data"}
    arguments: list[str] = []
    if request.param == "postgresql":
        production: Server = request.getfixturevalue("blobs_production")
        server: S3Server = request.getfixturevalue("s3_server")
        given["database_url"] = SecretStr(production.url)
        arguments = [server.endpoint_url, server.access_key, server.secret_key, server.bucket_name]
    async with FileStorageManager(*arguments, settings=Settings.from_environment(**given)) as manager:
        yield manager


async def test_the_guidelines_calls_give_the_guidelines_answers(manager: FileStorageManager, company: str) -> None:
    """Upload, download, list and delete have their keys and values; what is not there is None, False or empty."""
    assert await manager.download_file(company, "freshdesk", "missing") is None
    assert not await manager.delete_file(company, "freshdesk", "missing")
    assert await manager.list_files(company, "freshdesk") == []
    before = datetime.now(UTC)
    assert await manager.upload_file(company, "freshdesk", "tickets/7/견적서.pdf", b"%PDF-1.7") == {
        "success": True,
        "file_key": f"{company}/freshdesk/tickets/7/견적서.pdf",
        "file_path": "tickets/7/견적서.pdf",
        "size": 8,
        "content_type": "application/pdf",
    }
    told = await manager.upload_file(company, "freshdesk", "tickets/7/data", b"?", content_type="text/x-odd")
    assert told["content_type"] == "text/x-odd"
    await manager.upload_file(company, "freshdesk2", "tickets/8", b"another platform's")
    await manager.upload_file(f"{company}-2", "freshdesk", "tickets/7/data", b"another company's")
    assert await manager.download_file(company, "freshdesk", "tickets/7/견적서.pdf") == b"%PDF-1.7"
    first, second = await manager.list_files(company, "freshdesk")
    assert first["key"] == f"{company}/freshdesk/tickets/7/data"
    assert set(second) == {"key", "size", "last_modified", "etag"}
    assert (second["key"], second["size"]) == (f"{company}/freshdesk/tickets/7/견적서.pdf", 8)
    assert before <= second["last_modified"] <= datetime.now(UTC)
    assert await manager.list_files(company, "freshdesk", "tickets/7/견") == [second]
    await manager.upload_file(company, "freshdesk", "tickets/7/견적서.pdf", b"%PDF-2.0")
    assert (await manager.list_files(company, "freshdesk", "tickets/7/견"))[0]["etag"] != second["etag"]
    assert await manager.delete_file(company, "freshdesk", "tickets/7/data")
    assert not await manager.delete_file(company, "freshdesk", "tickets/7/data")
    assert await manager.download_file(f"{company}-2", "freshdesk", "tickets/7/data") == b"another company's"


async def test_S1_neither_company_nor_platform_nor_path_leads_elsewhere(
    manager: FileStorageManager, company: str
) -> None:
    """Names that are none raise InvalidIdentifier in every call, and errors are raised, not returned."""
    await manager.upload_file(company, "freshdesk", "a", b"")
    for names in [
        ("../other", "freshdesk", "a"),
        (company, "../other", "a"),
        (company, "", "a"),
        (company, "freshdesk", "../../a"),
        (company, "freshdesk", "/etc/passwd"),
        (company, "freshdesk", ""),
        (company, "freshdesk", "a\0"),
    ]:
        for call in (manager.download_file(*names), manager.delete_file(*names), manager.upload_file(*names, b"x")):
            with pytest.raises(InvalidIdentifier):
                await call
    with pytest.raises(BlobKeyTaken):
        await manager.upload_file(company, "freshdesk", "A", b"")


async def test_more_files_than_an_object_store_lists_at_once_are_listed(
    company: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list of files is never cut."""
    monkeypatch.setattr("localstore.blobs.store.LIST_LIMIT", 10)
    async with FileStorageManager(settings=Settings.from_environment(data_path=tmp_path / "data")) as manager:
        names = [f"{number:03}" for number in range(35)]
        await asyncio.gather(*(manager.upload_file(company, "freshdesk", name, b"") for name in names))
        found = await manager.list_files(company, "freshdesk")
        assert [entry["key"] for entry in found] == [f"{company}/freshdesk/{name}" for name in names]


async def test_files_are_the_tenants_blobs(company: str, tmp_path: Path) -> None:
    """In a file's mode an upload is a blob of the tenant whose key begins with the platform, and vice versa."""
    settings = Settings.from_environment(data_path=tmp_path / "data")
    async with FileStorageManager(settings=settings) as manager, LocalStore(tmp_path / "data", models=()) as store:
        await manager.upload_file(company, "freshdesk", "note.txt", b"uploaded")
        blobs = store.tenant(company).blobs
        assert await blobs.get("freshdesk/note.txt") == b"uploaded"
        await blobs.put("freshdesk/other.txt", b"put")
        assert await manager.download_file(company, "freshdesk", "other.txt") == b"put"


async def test_in_production_the_bucket_holds_the_bytes_and_nothing_is_local(
    blobs_production: Server, s3_server: S3Server, company: str, tmp_path: Path
) -> None:
    """With STORAGE_TYPE=postgresql no folder is made, and the object is below the company's prefix."""
    settings = Settings.from_environment(
        storage_type="postgresql",
        data_path=tmp_path / "data",
        database_url=SecretStr(blobs_production.url),
        **{name.lower(): value for name, value in s3_server.environment.items()},
    )
    async with FileStorageManager(settings=settings) as manager, s3_server.bucket as bucket:
        await manager.upload_file(company, "freshdesk", "note.txt", b"uploaded")
        (found,) = await manager.list_files(company, "freshdesk")
        assert await S3Objects(bucket, company).stat(found["etag"].strip('"')) is not None
        blobs = await manager._blobs(company)
        assert blobs is not None
        assert f"/{company}/objects/" in await blobs.presign("freshdesk/note.txt")
    assert not (tmp_path / "data").exists()


async def test_a_tenant_whose_truth_is_elsewhere_is_refused(
    blobs_production: Server, s3_server: S3Server, company: str, tmp_path: Path
) -> None:
    """Files of a tenant in production are not taken locally; hybrid goes where each tenant is."""
    production: dict[str, Any] = {
        "database_url": SecretStr(blobs_production.url),
        "data_path": tmp_path / "data",
        **{name.lower(): value for name, value in s3_server.environment.items()},
    }
    async with LocalStore(tmp_path / "data", models=()) as store:
        await store.create_tenant(company, mode="postgresql")
    async with FileStorageManager(settings=Settings.from_environment(**production)) as manager:
        with pytest.raises(WrongMode):
            await manager.upload_file(company, "freshdesk", "a", b"x")
    hybrid = Settings.from_environment(storage_type="hybrid", **production)
    async with FileStorageManager(settings=hybrid) as manager:
        await manager.upload_file(company, "freshdesk", "a", b"in production")
        await manager.upload_file(f"{company}-2", "freshdesk", "a", b"in the file")
    direct = Settings.from_environment(storage_type="postgresql", **production)
    async with FileStorageManager(settings=direct) as manager:
        assert await manager.download_file(company, "freshdesk", "a") == b"in production"
        assert await manager.download_file(f"{company}-2", "freshdesk", "a") is None


async def test_S5_a_manager_shows_nothing_and_opens_nothing_by_itself(tmp_path: Path) -> None:
    """Making one opens nothing, its repr holds no secret, and what lacks is said when it is used."""
    secret = secrets.token_hex(8)
    settings = Settings.from_environment(storage_type="postgresql")
    manager = FileStorageManager("http://127.0.0.1:9", "key", secret, settings=settings)
    assert secret not in repr(manager)
    assert "key" not in repr(manager)
    with pytest.raises(ConfigurationError, match="DATABASE_URL"):
        await manager.download_file("wedosoft", "freshdesk", "a")
    assert isinstance(file_storage, FileStorageManager)
    await file_storage.close()
