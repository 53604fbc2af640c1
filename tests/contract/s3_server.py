"""An object store over HTTP for the tests: moto's server on loopback, or the one that the environment names."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from pydantic import SecretStr

from localstore.blobs.s3 import Bucket

ENDPOINT = "LOCALSTORE_TEST_S3_ENDPOINT_URL"
ACCESS_KEY = "LOCALSTORE_TEST_S3_ACCESS_KEY"
SECRET_KEY = "LOCALSTORE_TEST_S3_SECRET_KEY"


@dataclass(frozen=True, slots=True)
class S3Server:
    """Where the object store is, how it is entered, and a bucket that is the tests' own."""

    endpoint_url: str
    access_key: str
    secret_key: str
    bucket_name: str

    @property
    def bucket(self) -> Bucket:
        """Return the bucket, not open yet."""
        return Bucket(
            self.bucket_name,
            endpoint_url=self.endpoint_url,
            access_key=self.access_key,
            secret_key=SecretStr(self.secret_key),
        )

    @property
    def environment(self) -> dict[str, str]:
        """Return the settings that lead an application here."""
        return {
            "S3_ENDPOINT_URL": self.endpoint_url,
            "S3_ACCESS_KEY": self.access_key,
            "S3_SECRET_KEY": self.secret_key,
            "S3_BUCKET_NAME": self.bucket_name,
        }


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """Run an object store with a new bucket until the tests end; the bucket is emptied and removed."""
    name = f"localstore-test-{secrets.token_hex(6)}"
    named = os.environ.get(ENDPOINT)
    if named:
        yield from _with_bucket(S3Server(named, os.environ[ACCESS_KEY], os.environ[SECRET_KEY], name))
        return
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield from _with_bucket(S3Server(f"http://{host}:{port}", "tests", secrets.token_urlsafe(24), name))
    finally:
        server.stop()


def _with_bucket(server: S3Server) -> Iterator[S3Server]:
    async def make() -> None:
        async with server.bucket as bucket:
            await bucket.call("create_bucket")

    async def drop() -> None:
        async with server.bucket as bucket:
            while found := (await bucket.call("list_objects_v2")).get("Contents"):
                await asyncio.gather(*(bucket.call("delete_object", Key=entry["Key"]) for entry in found))
            for upload in (await bucket.call("list_multipart_uploads")).get("Uploads", []):
                await bucket.call("abort_multipart_upload", Key=upload["Key"], UploadId=upload["UploadId"])
            await bucket.call("delete_bucket")

    with ThreadPoolExecutor(1) as thread:
        thread.submit(lambda: asyncio.run(make())).result()
        yield server
        thread.submit(lambda: asyncio.run(drop())).result()
