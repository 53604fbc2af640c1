"""`localstore blobs list|put|get|link|rm`: the blobs of one tenant, by key."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from localstore.cli.options import DataOption, JsonOption, QuietOption
from localstore.cli.output import printable, report, run
from localstore.config import Settings
from localstore.errors import BlobError, BlobNotFound, ConfigurationError
from localstore.identifiers import preview
from localstore.sqlite.threads import in_thread

if TYPE_CHECKING:
    from localstore.blobs.store import Blobs
    from localstore.blobs.stream import BlobReader

LINK_SECONDS = 900
"""As long as a link may last at most; what knows this takes long to load."""

app = typer.Typer(
    help="List, put, get, link to and remove a tenant's blobs.", no_args_is_help=True, rich_markup_mode=None
)


def add_to(root: typer.Typer) -> None:
    """Add these commands to the root command."""
    root.add_typer(app, name="blobs")


TenantArgument = Annotated[str, typer.Argument(metavar="TENANT", help="The tenant's id.", show_default=False)]
KeyArgument = Annotated[str, typer.Argument(metavar="KEY", help="The blob's key.", show_default=False)]


@app.command("list")
def list_blobs(
    tenant: TenantArgument,
    prefix: Annotated[str, typer.Argument(metavar="[PREFIX]", help="What the keys begin with.")] = "",
    data: DataOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """List blobs in the order of their keys, with their sizes and types."""

    async def work(blobs: Blobs) -> dict[str, Any]:
        found = [blob.to_json() async for blob in blobs.walk(prefix)]
        return {"tenant": tenant, "blobs": found, "bytes": sum(blob["size"] for blob in found)}

    result = _run(tenant, data, work, json=json)

    def render() -> None:
        for blob in result["blobs"]:
            print(f"{blob['size']:>12}  {blob['content_type']:<28}  {printable(blob['key'])}")
        if not quiet:
            print(f"{len(result['blobs'])} blobs, {result['bytes']} bytes")

    report(result, render, json)


@app.command("put")
def put_blob(
    tenant: TenantArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What to put; - reads standard input.")],
    key: Annotated[str | None, typer.Argument(metavar="[KEY]", help="The blob's key; else FILE's name.")] = None,
    content_type: Annotated[
        str | None, typer.Option("--type", metavar="TYPE", help="The content type; else it is guessed.")
    ] = None,
    data: DataOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Put a file under a key, in place of what was there."""
    from_stdin = str(file) == "-"
    if key is None:
        if from_stdin:
            raise ConfigurationError("standard input has no name", hint="localstore blobs put TENANT - KEY")
        # Some file systems give names in another normal form than they were made in.
        key = unicodedata.normalize("NFC", file.name)
    if not from_stdin and _is_missing(file):
        raise BlobError(
            f"there is no file {preview(str(file))}",
            hint="FILE comes first, then KEY: localstore blobs put TENANT FILE KEY",
        )

    async def work(blobs: Blobs) -> dict[str, Any]:
        info = await blobs.put(key, sys.stdin.buffer if from_stdin else file, content_type=content_type)
        return {"tenant": tenant, "blob": info.to_json()}

    result = _run(tenant, data, work, json=json, create=True)

    def render() -> None:
        if not quiet:
            blob = result["blob"]
            print(f"{printable(blob['key'])}: {blob['size']} bytes, {blob['content_type']}")

    report(result, render, json)


@app.command("get")
def get_blob(
    tenant: TenantArgument,
    key: KeyArgument,
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="A file, a folder, or - for standard output; else the key's last part."),
    ] = None,
    data: DataOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write a blob to a file, or into a folder; what is there is replaced when all of it has been read."""
    name = key.rsplit("/", 1)[-1]
    target = Path(name) if file is None else file / name if file.is_dir() else file
    to_stdout = str(target) == "-"
    if to_stdout and json:
        raise ConfigurationError("--json and the blob cannot both be printed", hint="name a file, or leave out --json")

    async def work(blobs: Blobs) -> dict[str, Any]:
        async with blobs.open(key) as blob:
            if to_stdout:
                async for chunk in blob:
                    sys.stdout.buffer.write(chunk)
            else:
                await _write(blob, target)
            return {"tenant": tenant, "blob": blob.info.to_json(), "file": str(target)}

    result = _run(tenant, data, work, json=json)

    def render() -> None:
        if not quiet and not to_stdout:
            print(f"{printable(str(target))}: {result['blob']['size']} bytes")

    report(result, render, json)


@app.command("link")
def link_blob(
    tenant: TenantArgument,
    key: KeyArgument,
    seconds: Annotated[
        int, typer.Option("--seconds", metavar="N", help="How long the link lasts, 900 at most.")
    ] = LINK_SECONDS,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Print a link with which anybody can download a blob that is in the object store; it cannot be taken back."""

    async def work(blobs: Blobs) -> dict[str, Any]:
        return {"tenant": tenant, "key": key, "link": await blobs.presign(key, seconds), "seconds": seconds}

    result = _run(tenant, data, work, json=json)
    report(result, lambda: print(result["link"]), json)


@app.command("rm")
def remove_blobs(
    tenant: TenantArgument,
    key: KeyArgument,
    prefix: Annotated[bool, typer.Option("--prefix", help="Remove every blob whose key begins with KEY.")] = False,
    data: DataOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Remove a blob, or all whose keys begin so. Their bytes stay for a while, for a rollback to find."""

    async def work(blobs: Blobs) -> dict[str, Any]:
        removed = await blobs.delete_prefix(key) if prefix else int(await blobs.delete(key))
        if not removed and not prefix:
            raise BlobNotFound(
                f"tenant {tenant} has no blob {preview(key)}", hint=f"localstore blobs list {quote(tenant)}"
            )
        return {"tenant": tenant, "removed": removed}

    result = _run(tenant, data, work, json=json)

    def render() -> None:
        if not quiet:
            print(f"removed {result['removed']}")

    report(result, render, json)


def _run(
    tenant: str,
    data: Path | None,
    work: Callable[[Blobs], Awaitable[dict[str, Any]]],
    *,
    json: bool,
    create: bool = False,
) -> dict[str, Any]:
    """Run `work` on the tenant's blobs, wherever the settings say they are, and return the command's JSON."""
    from localstore.storage.places import BlobPlaces

    settings = Settings.from_environment(**({} if data is None else {"data_path": data}))

    async def opened() -> dict[str, Any]:
        async with BlobPlaces(settings) as places:
            return await work(await places.of(tenant, create=create))

    return {"version": 1, **run(opened(), json=json), "exit": 0}


async def _write(blob: BlobReader, target: Path) -> None:
    unfinished = target.with_name(f".{target.name[:100]}.unfinished")
    try:
        file = await in_thread(partial(_create, unfinished))
        try:
            async for chunk in blob:
                await in_thread(partial(file.write, chunk))
        finally:
            await in_thread(file.close)
        await in_thread(partial(os.replace, unfinished, target))
    except OSError as error:
        raise BlobError(
            f"{target} cannot be written: {error.strerror or error}", hint="name a file that may be written"
        ) from error
    finally:
        unfinished.unlink(missing_ok=True)


def _is_missing(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        # Whatever else is the matter with it is said when it is read.
        return False
    return False


def _create(path: Path) -> Any:
    return path.open("wb")
