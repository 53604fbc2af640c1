"""Claims about what a refusal names as the next command: it is one that helps."""

from __future__ import annotations

from pathlib import Path

from tests.integration.command import command, sync
from tests.integration.test_schema_production import ITEMS, altered, made, shell, track

WHOLE = ITEMS.replace("extra TEXT", "extra INTEGER")
DECIMALS = ITEMS.replace("extra TEXT", "extra DECIMAL")


async def test_a_change_of_type_names_the_flag_that_it_takes(tmp_path: Path, production: str) -> None:
    """A push that is refused for a type says `--destructive`, and with it the push goes through."""
    root = tmp_path / "data"
    await made(root, "acme", statement=WHOLE)
    assert sync("push", "--promote", "--to", production, "--data", root).code == 0
    altered(root, "acme", "DROP TABLE items", DECIMALS)
    track(root, "acme")
    shell(root, "acme", "INSERT INTO items (company_id, number, title) VALUES ('acme', 2, 'two')")
    refused = sync("push", "--promote", "--to", production, "--data", root)
    assert (refused.code, "`localstore sync schema apply --destructive`" in refused.err) == (6, True), refused.all
    assert sync("schema", "apply", "--destructive", "--to", production, "--data", root).code == 0
    assert sync("push", "--promote", "--to", production, "--data", root).code == 0


async def test_production_is_not_made_narrow_again(tmp_path: Path, production: str) -> None:
    """A file whose column is narrower than production's is told to follow, since the flag would lose fractions."""
    wide, narrow = tmp_path / "wide", tmp_path / "narrow"
    await made(wide, "acme", statement=DECIMALS)
    await made(narrow, "zeta", statement=WHOLE)
    assert sync("push", "--promote", "--to", production, "--data", wide).code == 0
    refused = sync("push", "--promote", "--to", production, "--data", narrow)
    assert (refused.code, "`localstore schema apply --models MODULE`" in refused.err) == (6, True), refused.all
    assert "--destructive" not in refused.err


async def test_a_renamed_column_names_the_models(tmp_path: Path, production: str) -> None:
    """Without the models' module `schema plan` looks at no table of an application's own."""
    root = tmp_path / "data"
    await made(root, "acme")
    altered(root, "acme", "ALTER TABLE items RENAME COLUMN extra TO other")
    refused = sync("push", "--to", production, "--data", root)
    assert (refused.code, "Try: localstore schema plan --models MODULE" in refused.err) == (1, True), refused.all


async def test_a_first_mode_begins_with_a_push(tmp_path: Path, production: str) -> None:
    """On a database that nobody prepared, the command that is named is the one after which the mode can advance."""
    root = tmp_path / "data"
    await made(root, "acme")
    refused = command("mode", "advance", "acme", "--to", production, "--data", root)
    assert (refused.code, "Try: localstore sync push --promote --tenant acme" in refused.err) == (6, True), refused.all
    assert sync("push", "--promote", "--tenant", "acme", "--to", production, "--data", root).code == 0
    assert command("mode", "advance", "acme", "--to", production, "--data", root).code == 0


async def test_one_old_tenant_is_no_obstacle_to_the_others(tmp_path: Path, production: str) -> None:
    """After production's column became wider, verify, pull and mode serve it as all others."""
    root = tmp_path / "data"
    await made(root, "acme", "old", statement=WHOLE)
    assert sync("push", "--promote", "--to", production, "--data", root).code == 0
    altered(root, "acme", "DROP TABLE items", DECIMALS)
    track(root, "acme")
    assert sync("schema", "apply", "--destructive", "--to", production, "--data", root).code == 0
    shell(root, "acme", "INSERT INTO items (company_id, number, title, extra) VALUES ('acme', 2, 'two', 1.5)")
    shell(root, "old", "UPDATE items SET extra = 7")
    assert sync("push", "--promote", "--to", production, "--data", root).code == 0
    verified = sync("verify", "--to", production, "--data", root, "--json")
    told = {tenant["tenant"]: tenant["equal"] for tenant in verified.json["tenants"]}
    assert (verified.code, told) == (4, {"acme": False, "old": True}), verified.all
    assert command("mode", "advance", "old", "--to", production, "--data", root).code == 0
    assert sync("pull", "--to", production, "--data", root).code == 0
    assert sync("verify", "--to", production, "--data", root).code == 0
