"""The spellings in which other tools write a time, all of which production is given as the same moment."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st

DAY = datetime(2024, 1, 3, tzinfo=UTC)
SECONDS = (0, 1, 3_600, 18_000, 86_399)
MICROSECONDS = (0, 1, 10, 500_000, 999_999)

MOMENTS = st.builds(
    lambda days, seconds, microseconds: DAY + timedelta(days, seconds, microseconds),
    st.integers(-1, 1),
    st.sampled_from(SECONDS),
    st.sampled_from(MICROSECONDS),
)
_OFFSETS = st.sampled_from((0, 60, 3_600, 19_800, 53_999, 57_599)).flatmap(lambda end: st.sampled_from((end, -end)))


@st.composite
def spellings(draw: st.DrawFn, moment: datetime) -> str:
    """Draw a spelling of the moment."""
    offset = draw(_OFFSETS)
    local = (moment + timedelta(seconds=offset)).replace(tzinfo=None)
    day, clock = local.date().isoformat(), local.time().isoformat("microseconds")
    if not offset and clock == "00:00:00.000000" and draw(st.booleans()):
        return day
    short = clock.rstrip("0").rstrip(".") if clock.endswith("0") else clock
    forms = {clock, f"{clock}000"}
    if len(short) > len("00:00:00."):
        forms.add(short)
    elif clock.endswith(".000000"):
        forms.add(clock[:8])
        forms.update({clock[:5]} if clock[6:8] == "00" else ())
    text = day + draw(st.sampled_from(" T")) + draw(st.sampled_from(sorted(forms)))
    if not offset:
        return text + draw(st.sampled_from(("", "Z", " Z", "+00", "-00:00", " +0000", "+00:00:00")))
    return text + draw(st.sampled_from(("", " "))) + draw(st.sampled_from(_offset_forms(offset)))


def _offset_forms(offset: int) -> list[str]:
    sign, (minutes, seconds) = "-" if offset < 0 else "+", divmod(abs(offset), 60)
    hour, minute, second = f"{sign}{minutes // 60:02}", f"{minutes % 60:02}", f"{seconds:02}"
    forms = [f"{hour}{a}{minute}{b}{second}" for a in ("", ":") for b in ("", ":")]
    if not seconds:
        forms += [f"{hour}{minute}", f"{hour}:{minute}"]
        forms += [] if minutes % 60 else [hour]
    return forms
