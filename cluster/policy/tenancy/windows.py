"""Windows of quotas, cut into slots in which use is counted.

A minute is any sixty seconds, not a calendar one: it is the sum of the slots that reach into the last sixty
seconds, so at no time more than the limit was used within sixty seconds. (A token bucket of the same size
would let twice the limit pass in its first minute.) Days and months are calendar ones, in UTC, because that
is how budgets are made.
"""

from datetime import UTC, datetime

from cluster.entities.tenancy import Window

SLOT_S = 5
"""Length of a minute's slots: how coarse what was used is forgotten."""
_DAY_S = 86_400


def slot_of(window: Window, now_s: float) -> int:
    """The slot in which use at an instant (Unix time) counts."""
    if window is Window.MINUTE:
        return int(now_s // SLOT_S)
    if window is Window.DAY:
        return int(now_s // _DAY_S)
    day = datetime.fromtimestamp(now_s, tz=UTC)
    return day.year * 12 + day.month - 1


def slot_end_s(window: Window, slot: int) -> float:
    """When a slot is over: nothing counts in it from then on."""
    if window is Window.MINUTE:
        return float((slot + 1) * SLOT_S)
    if window is Window.DAY:
        return float((slot + 1) * _DAY_S)
    year, month = divmod(slot + 1, 12)
    return datetime(year, month + 1, 1, tzinfo=UTC).timestamp()


def forgotten_s(window: Window, slot: int) -> float:
    """From when on what was used in a slot no longer counts."""
    end_s = slot_end_s(window, slot)
    return end_s + 60.0 if window is Window.MINUTE else end_s


def slot_name(window: Window, slot: int) -> str:
    """A day or month as people write it."""
    start = datetime.fromtimestamp(slot_end_s(window, slot - 1), tz=UTC)
    return start.strftime("%Y-%m-%d" if window is Window.DAY else "%Y-%m")
