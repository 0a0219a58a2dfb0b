"""Rules that name a model by what is known of a request, and the check that each of them means something.

A condition describes a box: the product of one set per signal. Rules apply in their order, so a rule whose
box lies inside the union of the earlier ones can never apply, and where two boxes cross without one holding
the other the order decides silently. Both are mistakes more often than not, and both are found here.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from cluster.config.base import Name, Section
from cluster.entities.model_routing import Goal

HintName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]


class RangeConfig(Section):
    """A half-open range, so that neighbouring ranges neither overlap nor leave a gap."""

    at_least: float = Field(default=0.0, ge=0)
    """Smallest value inside."""

    below: float | None = Field(default=None, gt=0)
    """Smallest value above the range; None for no upper end."""

    @model_validator(mode="after")
    def _holds_something(self) -> "RangeConfig":
        if self.below is not None and self.below <= self.at_least:
            raise ValueError(f"below ({self.below:g}) must be larger than at_least ({self.at_least:g})")
        return self


class ConditionConfig(Section):
    """What must be true of a request; what is left out may be anything."""

    category: tuple[str, ...] | None = Field(default=None, min_length=1)
    """One of these categories."""

    language: tuple[str, ...] | None = Field(default=None, min_length=1)
    """One of these ISO 639-1 codes; `und` is a text whose language cannot be told."""

    goal: tuple[Goal, ...] | None = Field(default=None, min_length=1)
    """One of these goals of the caller."""

    prompt_tokens: RangeConfig | None = None
    """Length of the prompt."""

    complexity: RangeConfig | None = None
    """Complexity of the last user text, 0 to 1."""

    turns: RangeConfig | None = None
    """User messages in the conversation."""

    tools: bool | None = None
    """Whether the request offers tools."""

    hints: dict[HintName, tuple[str, ...]] = Field(default={})
    """For each named hint of the caller (`x-tidemill-hint-NAME`), the values that fit."""

    @model_validator(mode="after")
    def _hints_can_fit(self) -> "ConditionConfig":
        for name, values in self.hints.items():
            if not values:
                raise ValueError(f"hints.{name}: no value fits; list at least one")
        return self


class RuleConfig(Section):
    """One rule: which requests, which models."""

    name: Name
    """What logs and messages call the rule."""

    when: ConditionConfig = ConditionConfig()
    """Which requests; without conditions, all."""

    use: tuple[Name, ...] = Field(min_length=1)
    """Models in order of preference: the first that can answer is taken."""

    after: tuple[Name, ...] = ()
    """Earlier rules that may take some of this rule's requests away, and are meant to."""


@dataclass(frozen=True, slots=True)
class _Interval:
    """Numbers from `low` up to, and without, `high`."""

    low: float
    high: float

    def meet(self, other: "_Interval") -> "_Interval | None":
        low, high = max(self.low, other.low), min(self.high, other.high)
        return _Interval(low, high) if low < high else None

    def without(self, other: "_Interval") -> Iterator["_Interval"]:
        if self.low < other.low:
            yield _Interval(self.low, min(self.high, other.low))
        if other.high < self.high:
            yield _Interval(max(self.low, other.high), self.high)

    def example(self) -> str:
        return f"{self.low:g}"


@dataclass(frozen=True, slots=True)
class _Names:
    """These names, or all names but these."""

    members: frozenset[str]
    all_but: bool = False

    def meet(self, other: "_Names") -> "_Names | None":
        if self.all_but and other.all_but:
            return _Names(self.members | other.members, all_but=True)
        if self.all_but:
            found = other.members - self.members
        elif other.all_but:
            found = self.members - other.members
        else:
            found = self.members & other.members
        return _Names(found) if found else None

    def without(self, other: "_Names") -> Iterator["_Names"]:
        rest = self.meet(_Names(other.members, all_but=not other.all_but))
        if rest is not None:
            yield rest

    def example(self) -> str:
        return "something else" if self.all_but else min(self.members)


_Set = _Interval | _Names
_Box = Mapping[str, _Set]

_NUMBERS = _Interval(0.0, math.inf)
_UNIVERSE: dict[str, _Set] = {
    "prompt_tokens": _NUMBERS,
    "complexity": _NUMBERS,
    "turns": _NUMBERS,
    "goal": _Names(frozenset(Goal)),
    "tools": _Names(frozenset({"true", "false"})),
}
_ANY_NAME = _Names(frozenset(), all_but=True)


def mistakes_in(rules: Sequence[RuleConfig]) -> Iterator[str]:
    """One message for every rule that can never apply or crosses another one unsaid."""
    boxes = [_box(rule.when) for rule in rules]
    named = {rule.name for rule in rules}
    for index, rule in enumerate(rules):
        where = f"rules.{index} ({rule.name})"
        if any(earlier.name == rule.name for earlier in rules[:index]):
            yield f"{where}: the name stands twice"
        unknown = [name for name in rule.after if name not in named or name == rule.name]
        if unknown:
            yield f"{where}: after names no other rule: {', '.join(unknown)}"
        takers = [n for n in range(index) if _meet(boxes[n], boxes[index]) is not None]
        if takers and not _remainder([boxes[index]], [boxes[n] for n in takers]):
            before = ", ".join(rules[n].name for n in takers)
            yield f"{where}: can never apply, every request it describes is taken by: {before}"
            continue
        for n in takers:
            if rules[n].use == rule.use or rules[n].name in rule.after:
                continue
            if not _remainder([boxes[n]], [boxes[index]]):
                continue  # an exception before the general rule: the usual, readable order
            crossing = _meet(boxes[n], boxes[index])
            left = _remainder([crossing] if crossing is not None else [], boxes[:n])
            if left:
                yield (
                    f"{where}: {rules[n].name!r} above also fits some of its requests ({_example(left[0])}) "
                    f"and takes them; write `after: [{rules[n].name}]` if that is meant, or narrow one"
                )


def _box(when: ConditionConfig) -> dict[str, _Set]:
    box: dict[str, _Set] = {}
    for name in ("prompt_tokens", "complexity", "turns"):
        limits = getattr(when, name)
        if limits is not None:
            box[name] = _Interval(limits.at_least, math.inf if limits.below is None else limits.below)
    for name in ("category", "language", "goal"):
        members = getattr(when, name)
        if members is not None:
            box[name] = _Names(frozenset(members))
    if when.tools is not None:
        box["tools"] = _Names(frozenset({str(when.tools).lower()}))
    for hint, values in when.hints.items():
        box[f"hints.{hint}"] = _Names(frozenset(values))
    return box


def _side(box: _Box, name: str) -> _Set:
    return box.get(name, _UNIVERSE.get(name, _ANY_NAME))


def _common(first: _Set, second: _Set) -> _Set | None:
    if isinstance(first, _Interval) and isinstance(second, _Interval):
        return first.meet(second)
    if isinstance(first, _Names) and isinstance(second, _Names):
        return first.meet(second)
    raise TypeError("a signal is either a number or a name")


def _difference(first: _Set, second: _Set) -> list[_Set]:
    if isinstance(first, _Interval) and isinstance(second, _Interval):
        return list(first.without(second))
    if isinstance(first, _Names) and isinstance(second, _Names):
        return list(first.without(second))
    raise TypeError("a signal is either a number or a name")


def _meet(first: _Box, second: _Box) -> dict[str, _Set] | None:
    """The box of what lies in both; None if nothing does."""
    both: dict[str, _Set] = {}
    for name in {**first, **second}:
        side = _common(_side(first, name), _side(second, name))
        if side is None:
            return None
        both[name] = side
    return both


def _remainder(boxes: Sequence[_Box], taken: Sequence[_Box]) -> list[_Box]:
    """What of the boxes lies in none of the taken ones, as boxes that do not touch."""
    left = list(boxes)
    for hole in taken:
        left = [part for box in left for part in _cut(box, hole)]
    return left


def _cut(box: _Box, hole: _Box) -> list[_Box]:
    if _meet(box, hole) is None:
        return [box]
    parts: list[_Box] = []
    inside = dict(box)
    for name, side in hole.items():
        parts += [{**inside, name: outer} for outer in _difference(_side(inside, name), side)]
        common = _common(_side(inside, name), side)
        if common is not None:
            inside[name] = common
    return parts


def _example(box: _Box) -> str:
    return ", ".join(f"{name} {side.example()}" for name, side in box.items())
