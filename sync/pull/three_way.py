"""Three-way: what becomes of one row that both sides may have changed, column by column.

Base, ours and theirs are compared in production's binary format, so that a document written otherwise, or a moment in
another spelling, is no change. Nothing is read or written here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal, TypeAlias

from localstore.codec import Bindable, Value, decode_binary, equal
from localstore.schema.tables import Column, Kind, Policy
from sync.verify.frames import Fields
from sync.verify.order import comparable

Op: TypeAlias = Literal["i", "u", "d"]


@dataclass(frozen=True, slots=True)
class Pending:
    """What of a row waits to be sent: `old` holds what a changed column was before, as SQLite stores it, by place.

    An `orphaned` change was held for a replica that this file no longer is, so that it has to be marked anew.
    `base` is the same in production's format; a value that production could not have had is left out. A column in
    `held` waits in production: its base is known there, and its marks are left as they are.
    """

    op: Op
    old: Mapping[int, Value | Bindable | None] = field(default_factory=dict)
    base: Mapping[int, bytes | None] = field(default_factory=dict)
    held: frozenset[int] = frozenset()
    marked: bool = True
    orphaned: bool = False


@dataclass(frozen=True, slots=True)
class Rebased:
    """A column that stays pending: its base is production's value now, or what it was before."""

    place: int
    theirs: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do to the local row. `write` are places that take production's value.

    `marks` are the columns that stay pending, where the row's marks are to be rewritten; None leaves them as they are.
    """

    write: tuple[int, ...] = ()
    marks: tuple[Rebased, ...] | None = None
    conflicts: int = 0


def settle(
    columns: Sequence[Column],
    places: Sequence[int],
    pending: Pending,
    ours: Fields | None,
    defects: frozenset[int],
    theirs: Fields | None,
) -> Verdict:
    """Decide about a row that waits to be sent. `places` are the columns that are neither key nor company."""
    if ours is None:
        return _deleted_here(columns, places, pending, theirs)
    if theirs is None:
        return Verdict(conflicts=int(pending.op == "u"))
    differing = [
        place for place in places if place in defects or not equal(columns[place].kind, ours[place], theirs[place])
    ]
    if pending.op == "i":
        return _on_both_sides(columns, pending, ours, defects, theirs, differing)
    return _columns(columns, pending, ours, defects, theirs, differing)


def _deleted_here(columns: Sequence[Column], places: Sequence[int], pending: Pending, theirs: Fields | None) -> Verdict:
    if theirs is None:
        return Verdict(marks=() if pending.marked and not pending.held else None)
    moved = [
        place
        for place in places
        if columns[place].policy is Policy.MANUAL
        and place in pending.base
        and not equal(columns[place].kind, pending.base[place], theirs[place])
    ]
    return Verdict(conflicts=len(moved))


def _on_both_sides(
    columns: Sequence[Column],
    pending: Pending,
    ours: Fields,
    defects: frozenset[int],
    theirs: Fields,
    differing: Sequence[int],
) -> Verdict:
    """Settle a row that both sides made: promotion compares such rows without a base, and so is it done here."""
    clashes = [place for place in differing if columns[place].policy is Policy.MANUAL or place in defects]
    if pending.held or not pending.marked:
        return Verdict(conflicts=len(clashes))
    wins = {
        place for place in differing if place not in defects and _theirs_win(columns[place], ours[place], theirs[place])
    }
    if clashes:
        # The row stays new, to become a conflict. Promotion settles these columns without a trace, so it is done now.
        return Verdict(write=tuple(sorted(wins)), conflicts=len(clashes))
    stay = tuple(Rebased(place, theirs=True) for place in differing if place not in wins)
    return Verdict(write=tuple(sorted(wins)), marks=stay)


def _columns(
    columns: Sequence[Column],
    pending: Pending,
    ours: Fields,
    defects: frozenset[int],
    theirs: Fields,
    differing: Sequence[int],
) -> Verdict:
    write: list[int] = []
    stay: list[Rebased] = []
    conflicts = 0
    settled = False
    apart = set(differing)
    for place in sorted({*differing, *pending.old, *pending.held}):
        column = columns[place]
        mine = place in pending.old or place in pending.held
        if place not in apart:
            if place in pending.held:
                # Held is what production keeps: only a promotion finds out that both agree.
                stay += [Rebased(place, theirs=False)] if place in pending.old else []
            else:
                settled = True
        elif not mine:
            write.append(place)
        elif place in pending.base and equal(column.kind, pending.base[place], theirs[place]):
            stay += [Rebased(place, theirs=False)] if place in pending.old else []
        elif place in defects or column.policy is Policy.MANUAL:
            conflicts += 1
            stay += [Rebased(place, theirs=False)] if place in pending.old else []
        elif _theirs_win(column, ours[place], theirs[place]):
            write.append(place)
            settled = True
        elif place in pending.held:
            stay += [Rebased(place, theirs=False)] if place in pending.old else []
        else:
            stay.append(Rebased(place, theirs=True))
            settled = True
    return Verdict(tuple(write), tuple(stay) if settled and pending.marked else None, conflicts)


def _theirs_win(column: Column, ours: bytes | None, theirs: bytes | None) -> bool:
    """Return whether a column's policy, which is not `manual`, takes production's value."""
    match column.policy:
        case Policy.PRODUCTION:
            return True
        case Policy.MAX:
            return ours is None or (theirs is not None and _order(column.kind, theirs) > _order(column.kind, ours))
        case Policy.MIN:
            return ours is None or (theirs is not None and _order(column.kind, theirs) < _order(column.kind, ours))
        case _:
            return False


def _order(kind: Kind, data: bytes) -> tuple[int | bytes | Decimal, ...]:
    """Return what sorts a value as production's `<` does."""
    if kind is Kind.NUMERIC:
        return (Decimal(str(decode_binary(kind, data))),)
    return (comparable(kind)(data),)
