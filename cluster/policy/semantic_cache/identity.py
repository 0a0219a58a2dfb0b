"""What must be equal before two requests can share an answer at all, however alike their texts are.

It exists because every tenant leak that was reported of semantic caches came from scoping by similarity:
tenant, model, policy epoch, knowledge version and everything but the last user text are compared exactly,
never softly.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from cluster.entities.workload import Surface

KNOWLEDGE_VERSION_HEADER = "x-tidemill-knowledge-version"
"""Request header: whatever the caller's answers depend on beside the request. A new value starts anew."""
_FOR_THE_ENGINE_ALONE = frozenset({"request_id", "priority"})
_ABOUT_THE_CALLER = frozenset({"user", "metadata", "safety_identifier", "prompt_cache_key"})
_ELSEWHERE_IN_THE_PARTITION = frozenset({"model", "stream", "stream_options"})
_FORM_MATTERS = frozenset({Surface.RESPONSES, Surface.MESSAGES})
"""Surfaces whose streams are not translated into whole answers and back."""
_PLACEHOLDER = "\x00last user text\x00"


class Partition(NamedTuple):
    """Entries are only ever compared within one. Tenant and model are plain, to purge by them."""

    tenant: str
    model: str
    scope: str
    """SHA-256 over policy epoch, knowledge version, surface and the request without its last user text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SemanticIdentity:
    """Where a request belongs, and the text that may differ."""

    scope: str
    text: str
    turns: int
    """User turns."""


def outside_the_answer(surface: Surface) -> frozenset[str]:
    """Fields of a request that its answer neither depends on nor repeats."""
    if surface is Surface.RESPONSES:
        return _FOR_THE_ENGINE_ALONE  # a response repeats what its caller said about itself
    return _FOR_THE_ENGINE_ALONE | _ABOUT_THE_CALLER


def identify(
    body: Mapping[str, Any], surface: Surface, *, policy_epoch: str, knowledge_version: str
) -> SemanticIdentity | None:
    """A request's identity; None if its last user input is not one plain text."""
    found = _without_last_text(body, surface)
    if found is None:
        return None
    rest, text, turns = found
    left_out = outside_the_answer(surface) | _ELSEWHERE_IN_THE_PARTITION
    material = {name: value for name, value in rest.items() if name not in left_out}
    form = bool(body.get("stream")) if surface in _FORM_MATTERS else None
    whole = [policy_epoch, knowledge_version, surface.value, form, material]
    digest = hashlib.sha256(json.dumps(whole, sort_keys=True, separators=(",", ":")).encode())
    return SemanticIdentity(scope=digest.hexdigest(), text=text, turns=turns)


def _without_last_text(body: Mapping[str, Any], surface: Surface) -> tuple[dict[str, Any], str, int] | None:
    match surface:
        case Surface.COMPLETIONS:
            name = "prompt"
        case Surface.RESPONSES:
            name = "input"
        case _:
            name = "messages"
    given = body.get(name)
    if isinstance(given, str):
        return {**body, name: _PLACEHOLDER}, given, 1
    if not isinstance(given, list) or not given or not isinstance(given[-1], dict):
        return None
    last = given[-1]
    text = _plain_text(last.get("content"))
    if last.get("role") != "user" or text is None:
        return None
    turns = sum(isinstance(turn, dict) and turn.get("role") == "user" for turn in given)
    return {**body, name: [*given[:-1], {**last, "content": _PLACEHOLDER}]}, text, turns


def _plain_text(content: Any) -> str | None:
    if isinstance(content, str):
        return content
    if isinstance(content, list) and len(content) == 1 and isinstance(content[0], dict):
        part = content[0]
        if part.get("type") in {"text", "input_text"} and isinstance(part.get("text"), str):
            return str(part["text"])
    return None
