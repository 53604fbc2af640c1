"""A tenant's rows by the fast path and by sessions: the same rows, the same rules."""

from __future__ import annotations

import asyncio
import math
import sqlite3
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlmodel import Field, SQLModel, select

from localstore import InvalidRow, JSONText, LocalStore, RawJSON, StoreError, Tenant, TenantModel, WrongTenant, as_text
from localstore.errors import ConfigurationError


class Mood(Enum):
    """A value of an enumeration."""

    GOOD = "good"
    BAD = "bad"


class Memo(TenantModel, table=True):
    """A model with a column of every kind."""

    __tablename__ = "tenant_memos"

    text: str
    count: int | None = None
    ratio: float | None = None
    price: Decimal | None = None
    done: bool | None = None
    due: datetime | None = None
    parent: UUID | None = None
    mood: Mood | None = None
    body: bytes | None = None
    data: Any = Field(default=None, sa_type=JSONText, nullable=True)


class Page(TenantModel, table=True):
    """A model with a natural key."""

    __tablename__ = "tenant_pages"

    id: UUID = Field(default_factory=uuid4, nullable=True)
    platform: str = Field(primary_key=True)
    slug: str = Field(primary_key=True)
    title: str | None = None


class Setting(SQLModel, table=True):
    """A model that knows nothing of tenants."""

    __tablename__ = "tenant_settings"

    name: str = Field(primary_key=True)
    value: str = ""


MODELS = [Memo, Page, Setting]


@pytest.fixture
async def tenant(tmp_path: Path) -> AsyncIterator[Tenant]:
    """Open a tenant of a store of its own."""
    async with LocalStore(tmp_path / "data", models=MODELS) as store, store.tenant("acme") as opened:
        yield opened


async def marks(tenant: Tenant) -> list[tuple[Any, ...]]:
    """Return what capture has seen, as (operation, column)."""
    return await tenant.database.read(
        lambda connection: connection.execute("SELECT op, col FROM localstore_marks ORDER BY seq").fetchall()
    )


def shell(tenant: Tenant, *statements: str) -> None:
    """Write as another program does, through SQLite."""
    connection = sqlite3.connect(tenant.database.path, isolation_level=None)
    try:
        for statement in statements:
            connection.execute(statement)
    finally:
        connection.close()


async def test_a_row_is_read_back_as_it_was_put(tenant: Tenant) -> None:
    """Every kind of value survives the file."""
    memo = Memo(
        text="é\r\n😀\0",
        count=2**63 - 1,
        ratio=0.1,
        price=Decimal("123456789012345678.90"),
        done=True,
        due=datetime(2024, 2, 29, 12, 30, tzinfo=timezone(timedelta(hours=9))),
        parent=uuid4(),
        mood=Mood.BAD,
        body=b"\x00\xff",
        data={"a": [1, 2.5, None, "x"]},
    )
    await tenant.put(memo)
    found = await tenant.get(Memo, memo.id)
    assert found == memo
    assert found is not None
    assert str(found.price) == "123456789012345678.90"
    assert found.due is not None
    assert found.due.tzinfo is UTC


async def test_a_missing_row_is_none_and_deleting_it_is_false(tenant: Tenant) -> None:
    """Absence is an answer, not an error."""
    memo = await tenant.put(Memo(text="x"))
    assert await tenant.get(Memo, uuid4()) is None
    assert await tenant.delete(Memo, uuid4()) is False
    assert await tenant.delete(Memo, memo.id) is True
    assert await tenant.get(Memo, memo.id) is None


async def test_a_natural_key_is_given_as_its_parts(tenant: Tenant) -> None:
    """The company is left out of a key or is the tenant's own; any other number of parts is refused."""
    await tenant.put(Page(platform="wiki", slug="home", title="Home"))
    for key in (("wiki", "home"), ["wiki", "home"], ("acme", "wiki", "home")):
        found = await tenant.get(Page, key)
        assert found is not None
        assert found.title == "Home"
    with pytest.raises(WrongTenant):
        await tenant.get(Page, ("other", "wiki", "home"))
    with pytest.raises(ConfigurationError, match="platform, slug"):
        await tenant.get(Page, "home")


async def test_a_model_without_a_company_is_kept_too(tenant: Tenant) -> None:
    """Any SQLModel will do; its rows belong to whoever's file they are in."""
    await tenant.put(Setting(name="theme", value="dark"))
    await tenant.put(Setting(name="theme", value="light"))
    found = await tenant.get(Setting, "theme")
    assert found is not None
    assert found.value == "light"


async def test_put_fills_in_the_company_and_refuses_another(tenant: Tenant) -> None:
    """A row may be put without saying whose it is, but not into somebody else's file."""
    memo = await tenant.put(Memo(text="x"))
    assert memo.company_id == "acme"
    with pytest.raises(WrongTenant):
        await tenant.put(Memo(text="x", company_id="other"))
    assert len(await tenant.find(Memo)) == 1


async def test_a_session_fills_in_the_company_and_refuses_another(tenant: Tenant) -> None:
    """The ORM's way in has the same rule as the fast path."""
    async with tenant.session() as session:
        session.add(Memo(text="mine"))
        await session.commit()
        session.add(Memo(text="theirs", company_id="other"))
        with pytest.raises(WrongTenant):
            await session.commit()
        await session.rollback()
    async with tenant.session() as session:
        found = (await session.exec(select(Memo))).one()
        assert found.company_id == "acme"
        found.company_id = "other"
        with pytest.raises(WrongTenant):
            await session.commit()


async def test_putting_a_row_again_writes_no_mark(tenant: Tenant) -> None:
    """What is stored already as it is given is not touched."""
    memo = Memo(text="x", data={"b": 1, "a": [1.0]}, price=Decimal("1.10"), due=datetime.now(UTC), mood=Mood.GOOD)
    await tenant.put(memo)
    before = await marks(tenant)
    await tenant.put(memo)
    again = Memo(**memo.model_dump(exclude={"created_at", "updated_at"}))
    await tenant.put(again)
    assert await marks(tenant) == before


async def test_an_update_marks_only_the_columns_that_differ(tenant: Tenant) -> None:
    """One changed column is one mark, and one for updated_at; the row is never replaced."""
    memo = await tenant.put(Memo(text="x", count=1))
    before = len(await marks(tenant))
    memo.count = 2
    await tenant.put(memo)
    written = (await marks(tenant))[before:]
    names = [column.name for column in tenant.database.tables[0].columns]
    table = next(table for table in tenant.database.tables if table.name == "tenant_memos")
    names = [column.name for column in table.columns]
    assert sorted((op, names[col]) for op, col in written) == [(2, "count"), (2, "updated_at")]


async def test_created_at_stays_and_updated_at_follows(tenant: Tenant) -> None:
    """A second put with the same key keeps when the row was made, and says when it changed, unless told otherwise."""
    first = await tenant.put(Memo(text="one"))
    second = await tenant.put(Memo(id=first.id, text="two"))
    stored = await tenant.get(Memo, first.id)
    assert stored is not None
    assert stored.created_at == first.created_at
    assert stored.updated_at == second.updated_at
    assert stored.updated_at > first.updated_at
    by_hand = datetime(2001, 1, 1, tzinfo=UTC)
    await tenant.put(Memo(id=first.id, text="three", created_at=by_hand, updated_at=by_hand))
    stored = await tenant.get(Memo, first.id)
    assert stored is not None
    assert (stored.created_at, stored.updated_at) == (by_hand, by_hand)


async def test_a_row_read_and_edited_is_put_with_a_new_updated_at(tenant: Tenant) -> None:
    """What `get` returned counts as stored, not as set by hand."""
    memo = await tenant.put(Memo(text="one", updated_at=datetime(2001, 1, 1, tzinfo=UTC)))
    read = await tenant.get(Memo, memo.id)
    assert read is not None
    read.text = "two"
    await tenant.put(read)
    stored = await tenant.get(Memo, memo.id)
    assert stored is not None
    assert stored.updated_at.year > 2001


async def test_json_text_stays_as_it_was_written(tenant: Tenant) -> None:
    """A payload's text survives, to the byte, the edit of another column; only a new value replaces it."""
    text = '{ "b": 1.0,\r\n  "a": "\\u0000\\ud800", "n": 12345678901234567890123 }'
    memo = await tenant.put(Memo(text="x", data=RawJSON(text)))

    async def stored() -> str:
        async with tenant.session(readonly=True) as session:
            return (await session.exec(select(as_text(Memo.data)))).one()

    read = await tenant.get(Memo, memo.id)
    assert read is not None
    assert read.data["n"] == 12345678901234567890123
    read.text = "edited"
    await tenant.put(read)
    assert await stored() == text
    read.data = {**read.data, "b": 2}
    await tenant.put(read)
    assert await stored() != text


async def test_json_that_another_tool_broke_is_still_read(tenant: Tenant) -> None:
    """Text that does not parse comes back as RawJSON and can be put back unaltered."""
    memo = await tenant.put(Memo(text="x", data={"a": 1}))
    shell(tenant, """UPDATE tenant_memos SET data = '{"a":1,}'""")
    read = await tenant.get(Memo, memo.id)
    assert read is not None
    assert read.data == RawJSON('{"a":1,}')
    assert isinstance(read.data, RawJSON)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("data", {"a": math.nan}),
        ("data", {1: "x"}),
        ("price", Decimal("NaN")),
        ("price", "abc"),
        ("done", "yes"),
        ("due", "tomorrow"),
        ("text", None),
        ("text", {"a": 1}),
        ("id", None),
    ],
    ids=str,
)
async def test_a_value_that_the_column_cannot_hold_is_an_invalid_row(tenant: Tenant, column: str, value: Any) -> None:
    """The row is named and nothing of its call is written."""
    memo = Memo(text="bad")
    setattr(memo, column, value)
    with pytest.raises(InvalidRow, match="tenant_memos"):
        await tenant.put_many([Memo(text="good"), memo])
    assert await tenant.find(Memo) == []


async def test_V2_a_lone_surrogate_in_text_is_an_invalid_row(tenant: Tenant) -> None:
    """SQLite stores UTF-8, which has no lone surrogates."""
    with pytest.raises(InvalidRow, match="tenant_memos"):
        await tenant.put(Memo(text="\ud800"))


async def test_V3_text_that_is_no_utf8_names_itself_and_can_be_replaced(tenant: Tenant) -> None:
    """Bytes that another tool stored as text make no put impossible."""
    memo = await tenant.put(Memo(text="x"))
    shell(tenant, "UPDATE tenant_memos SET text = CAST(x'ff61' AS TEXT)")
    with pytest.raises(StoreError, match="UTF-8"):
        await tenant.get(Memo, memo.id)
    await tenant.put(memo)
    assert await tenant.get(Memo, memo.id) == memo


async def test_V9_an_integer_beyond_64_bits_is_an_invalid_row(tenant: Tenant) -> None:
    """SQLite's integers have 64 bits."""
    with pytest.raises(InvalidRow, match="tenant_memos"):
        await tenant.put(Memo(text="x", count=2**63))


async def test_V17_V19_decimals_are_exact_on_both_paths(tenant: Tenant) -> None:
    """Money is text in the file, whichever path wrote it."""
    amount = Decimal("123456789012345678.99")
    memo = await tenant.put(Memo(text="x", price=amount))
    async with tenant.session() as session:
        found = await session.get(Memo, ("acme", memo.id))
        assert found is not None
        assert found.price == amount
        found.price = Decimal("1.10")
        await session.commit()
    stored = await tenant.get(Memo, memo.id)
    assert stored is not None
    assert str(stored.price) == "1.10"


async def test_V43_a_row_is_found_by_either_spelling_of_its_uuid(tenant: Tenant) -> None:
    """A shell may write the hyphens; the row is the same, and is updated, not doubled."""
    spelled = "6e85f8cd-6129-4818-b0b9-ae9cbdc665dd"
    shell(tenant, f"INSERT INTO tenant_memos (company_id, id, text) VALUES ('acme', '{spelled}', 'by hand')")
    for key in (UUID(spelled), spelled, spelled.replace("-", "")):
        found = await tenant.get(Memo, key)
        assert found is not None
        assert found.text == "by hand"
    await tenant.put(Memo(id=UUID(spelled), text="by put"))
    assert [memo.text for memo in await tenant.find(Memo)] == ["by put"]
    assert await tenant.delete(Memo, UUID(spelled)) is True


async def test_find_filters_orders_and_limits(tenant: Tenant) -> None:
    """Conditions are SQLAlchemy's, with values of the column's own type."""
    moment = datetime(2024, 1, 1, tzinfo=UTC)
    rows = [Memo(text=f"{n:03}", count=n, due=moment + timedelta(days=n), mood=Mood.GOOD) for n in range(150)]
    assert await tenant.put_many(rows) == 150
    assert len(await tenant.find(Memo)) == 100
    assert len(await tenant.find(Memo, limit=None)) == 150
    late = await tenant.find(Memo, Memo.due >= moment + timedelta(days=148), order_by=Memo.text.desc())  # type: ignore[operator, attr-defined]
    assert [memo.text for memo in late] == ["149", "148"]
    chosen = await tenant.find(Memo, Memo.count.in_([3, 1]), Memo.mood == Mood.GOOD, order_by=[Memo.count])  # type: ignore[union-attr]
    assert [memo.count for memo in chosen] == [1, 3]
    matching = await tenant.find(Memo, Memo.text.regexp_match("^00[12]$"))  # type: ignore[attr-defined]
    assert {memo.text for memo in matching} == {"001", "002"}


async def test_put_many_is_all_or_nothing(tenant: Tenant) -> None:
    """One bad row takes its whole call with it, and no other call."""
    good, bad = [Memo(text="a"), Memo(text="b")], [Memo(text="c"), Memo(text="d", company_id="other")]
    outcomes = await asyncio.gather(tenant.put_many(good), tenant.put_many(bad), return_exceptions=True)
    assert outcomes[0] == 2
    assert isinstance(outcomes[1], WrongTenant)
    assert sorted(memo.text for memo in await tenant.find(Memo)) == ["a", "b"]


async def test_a_row_from_get_goes_into_a_session_as_what_it_is(tenant: Tenant) -> None:
    """The session updates it instead of inserting it a second time."""
    memo = await tenant.put(Memo(text="one"))
    read = await tenant.get(Memo, memo.id)
    assert read is not None
    async with tenant.session() as session:
        session.add(read)
        read.text = "two"
        await session.commit()
    assert [row.text for row in await tenant.find(Memo)] == ["two"]


async def test_a_session_keeps_updated_at_up_to_date(tenant: Tenant) -> None:
    """The ORM's update moves it as the fast path does."""
    memo = await tenant.put(Memo(text="one", updated_at=datetime(2001, 1, 1, tzinfo=UTC)))
    async with tenant.session() as session:
        found = (await session.exec(select(Memo))).one()
        found.text = "two"
        await session.commit()
    stored = await tenant.get(Memo, memo.id)
    assert stored is not None
    assert stored.updated_at.year > 2001


async def test_a_session_rolls_back_what_it_did_not_commit(tenant: Tenant) -> None:
    """Leaving a session without a commit leaves nothing behind, and frees the writer."""
    async with tenant.session() as session:
        session.add(Memo(text="kept"))
        await session.commit()
        session.add(Memo(text="lost"))
        await session.flush()
    await tenant.put(Memo(text="after"))
    assert sorted(memo.text for memo in await tenant.find(Memo)) == ["after", "kept"]


async def test_a_session_has_savepoints(tenant: Tenant) -> None:
    """A nested transaction that fails leaves the outer one whole."""
    async with tenant.session() as session:
        session.add(Memo(text="outer"))
        await session.flush()
        with pytest.raises(RuntimeError):
            async with session.begin_nested():
                session.add(Memo(text="inner"))
                await session.flush()
                raise RuntimeError
        await session.commit()
    assert [memo.text for memo in await tenant.find(Memo)] == ["outer"]


async def test_a_session_streams_more_rows_than_it_fetches_at_once(tenant: Tenant) -> None:
    """A long result arrives whole, streamed or not."""
    await tenant.put_many([Memo(text=str(number)) for number in range(1000)])
    async with tenant.session(readonly=True) as session:
        assert len((await session.exec(select(Memo))).all()) == 1000
        streamed = [memo.text async for memo in await session.stream_scalars(select(Memo))]
    assert len(streamed) == 1000


async def test_a_readonly_session_writes_nothing(tenant: Tenant) -> None:
    """Neither by the ORM nor by a statement of its own."""
    async with tenant.session(readonly=True) as session:
        session.add(Memo(text="x"))
        with pytest.raises(StoreError, match="read-only"):
            await session.commit()
    assert await tenant.find(Memo) == []


async def test_a_readonly_session_reads_beside_a_writing_one(tenant: Tenant) -> None:
    """It sees what was committed before, and does not wait."""
    await tenant.put(Memo(text="before"))
    async with tenant.session() as writing, tenant.session(readonly=True) as reading:
        writing.add(Memo(text="pending"))
        await writing.flush()
        assert [memo.text for memo in (await reading.exec(select(Memo))).all()] == ["before"]
        await writing.commit()
        assert len((await reading.exec(select(Memo))).all()) == 1
    assert len(await tenant.find(Memo)) == 2


VALUES = st.fixed_dictionaries(
    {
        "text": st.text(st.characters(exclude_categories=["Cs"])),
        "count": st.none() | st.integers(-(2**63), 2**63 - 1),
        "ratio": st.none() | st.floats(allow_nan=False),
        "price": st.none() | st.decimals(allow_nan=False, allow_infinity=False),
        "done": st.none() | st.booleans(),
        "due": st.none() | st.datetimes(timezones=st.just(UTC)),
        "parent": st.none() | st.uuids(),
        "mood": st.none() | st.sampled_from(Mood),
        "body": st.none() | st.binary(),
        "data": st.recursive(
            st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text()
            | st.floats(allow_nan=False, allow_infinity=False),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=8,
        ),
    }
)  # fmt: skip


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=VALUES)
def test_both_paths_read_what_the_other_wrote(values: dict[str, Any], tmp_path: Path) -> None:
    """A row put is the row a session reads, and a row added is the row `get` returns; putting it again is no write."""

    async def round_trip() -> None:
        async with LocalStore(tmp_path / "data", models=MODELS) as store, store.tenant("acme") as tenant:
            put = await tenant.put(Memo(**values))
            async with tenant.session() as session:
                read = await session.get(Memo, ("acme", put.id))
                assert read == put
                added = Memo(**values)
                session.add(added)
                await session.commit()
            assert await tenant.get(Memo, added.id) == added
            before = await marks(tenant)
            await tenant.put_many([put, added, Memo(id=put.id, **values)])
            assert await marks(tenant) == before

    asyncio.run(round_trip())
