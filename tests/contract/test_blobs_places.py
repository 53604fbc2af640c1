"""Blobs by the environment alone, and their links: one program on a laptop and in production."""

from __future__ import annotations

import asyncio
import secrets
import textwrap
import urllib.request
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import localstore
from localstore import BlobError, BlobPlaces, ConfigurationError, LocalStore, Settings, TenantNotFound, WrongMode
from localstore.blobs.s3_objects import S3Objects
from localstore.postgres.connect import Server
from localstore.sqlite.mode import set_mode
from tests.integration.command import command

if TYPE_CHECKING:
    from tests.contract.s3_server import S3Server

pytest_plugins = ["tests.contract.blob_backends"]


@pytest.fixture
def company() -> str:
    """Name a company that nobody else uses."""
    return f"wedosoft-{secrets.token_hex(4)}"


def documented(company: str) -> str:
    """Return the example of docs/blobs.md, as the body of a function."""
    page = (Path(localstore.__file__).parents[1] / "docs" / "blobs.md").read_text()
    (example,) = [block for block in page.split("```python\n")[1:] if block.startswith("async with BlobPlaces()")]
    code = example.split("```")[0].replace('"wedosoft"', repr(company))
    return f"async def example():\n{textwrap.indent(code, '    ')}    return first, link\n"


def get(link: str) -> bytes:
    """Follow a link, as a browser does."""
    with urllib.request.urlopen(link, timeout=30) as answer:
        content: bytes = answer.read()
        return content


async def test_the_documented_example_runs_in_production(
    blobs_production: Server, s3_server: S3Server, company: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With STORAGE_TYPE=postgresql the page's lines put, stream and link a blob, and the link leads to its bytes."""
    environment = {
        "STORAGE_TYPE": "postgresql",
        "DATA_PATH": str(tmp_path / "data"),
        "DATABASE_URL": blobs_production.url,
        **s3_server.environment,
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    names: dict[str, Any] = {"BlobPlaces": BlobPlaces}
    exec(documented(company), names)
    first, link = await names["example"]()
    assert first == b"%PDF-1.7"
    assert await asyncio.to_thread(get, link) == b"%PDF-1.7"
    assert not (tmp_path / "data").exists()


async def test_places_follow_the_environment_and_a_tenants_mode(company: str, tmp_path: Path) -> None:
    """With STORAGE_TYPE=file blobs are those of the tenant's folder; a missing tenant and a wrong mode are errors."""
    settings = Settings.from_environment(data_path=tmp_path)
    async with BlobPlaces(settings) as places:
        with pytest.raises(TenantNotFound):
            await places.of(company, create=False)
        await (await places.of(company)).put("note", b"written on a train")
    async with LocalStore(tmp_path, models=()) as store:
        assert await store.tenant(company).blobs.get("note") == b"written on a train"
        await store.tenant(company).database.write(lambda file: set_mode(file, "postgresql"))
    async with BlobPlaces(settings) as places:
        with pytest.raises(WrongMode):
            await places.of(company)


@pytest.mark.parametrize("mode", ["file", "hybrid", "postgresql"])
async def test_a_blob_on_a_disk_has_a_link_as_soon_as_the_bucket_has_it(
    s3_server: S3Server, company: str, tmp_path: Path, mode: str
) -> None:
    """`tenant.blobs.presign` leads to the copy in the bucket, and says that a push is needed where there is none."""
    given: dict[str, Any] = {name.lower(): value for name, value in s3_server.environment.items()}
    async with LocalStore(tmp_path, models=(), settings=Settings.from_environment(**given)) as store:
        tenant = store.tenant(company)
        info = await tenant.blobs.put("note", b"written on a train")
        await tenant.database.write(lambda file: set_mode(file, mode))
        with pytest.raises(BlobError, match="not in") as caught:
            await tenant.blobs.presign("note")
        assert "push" in caught.value.hint
        async with s3_server.bucket as bucket:
            objects = S3Objects(bucket, company)
            file = await objects.collect()
            file.write(b"written on a train")
            await objects.add(info.hash, info.size, file)
            file.close()
        assert await asyncio.to_thread(get, await tenant.blobs.presign("note")) == b"written on a train"
    environment: dict[str, Any] = dict(s3_server.environment)
    link = partial(command, "blobs", "link", company, "note", "--data", tmp_path, "--json", **environment)
    shown = await asyncio.to_thread(link)
    if mode == "file":
        assert (shown.code, shown.json["seconds"]) == (0, 900), shown.all
        assert await asyncio.to_thread(get, shown.json["link"]) == b"written on a train"


async def test_without_a_bucket_there_is_no_link(company: str, tmp_path: Path) -> None:
    """The error names what is to be set."""
    async with LocalStore(tmp_path, models=(), settings=Settings.from_environment(s3_bucket_name=None)) as store:
        await store.tenant(company).blobs.put("note", b"x")
        with pytest.raises(ConfigurationError) as caught:
            await store.tenant(company).blobs.presign("note")
    assert "S3_BUCKET_NAME" in caught.value.hint
