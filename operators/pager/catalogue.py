"""What may be changed in the catalogue of adapters, and how the configured adapters come into it.

The file in the state folder is the truth once it exists: what was added, changed or removed while the cluster
ran stays so after a restart. Of the configuration only what has changed in it since counts.
"""

import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError

from cluster.config import TidemillConfig
from cluster.config.adapters import AdapterConfig
from cluster.entities.adapters import AdapterCard, AdapterCatalogue
from cluster.policy.paging.catalogue import card_of, ordered

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?")
OPEN = "auto"
FIELDS = frozenset(AdapterConfig.model_fields)
"""What may be said of an adapter."""


class CatalogueError(Exception):
    """A change that is refused; the message says what would be right."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueState:
    """The catalogue, and what of the configuration is in it."""

    catalogue: AdapterCatalogue
    configured: dict[str, str] = field(default_factory=dict)
    """By name, the digest of the configured entry that was taken last."""


def digest(entry: AdapterConfig) -> str:
    """Of a configured adapter; another one means that somebody has edited the file."""
    return hashlib.sha256(entry.model_dump_json().encode()).hexdigest()[:16]


def with_configuration(state: CatalogueState | None, config: TidemillConfig) -> CatalogueState:
    """The catalogue after a start: the kept one, with what was changed in the configuration since."""
    known = state or CatalogueState(catalogue=AdapterCatalogue(version=0))
    cards = {card.name: card for card in known.catalogue.adapters}
    digests = {name: digest(entry) for name, entry in config.adapters.catalogue.items()}
    for name in known.configured.keys() - digests.keys():
        cards.pop(name, None)
    for name, entry in config.adapters.catalogue.items():
        if known.configured.get(name) == digests[name]:
            continue
        before, card = cards.get(name), card_of(name, entry)
        cards[name] = succeeding(before, card) if before is not None else card
    cards = {name: card for name, card in cards.items() if config.adapter_pools(card.base_model)}
    return CatalogueState(
        catalogue=AdapterCatalogue(version=known.catalogue.version, adapters=ordered(cards.values())),
        configured=digests,
    )


def succeeding(before: AdapterCard, after: AdapterCard) -> AdapterCard:
    """New weights say which ones they follow, so that what is known of those is inherited in part."""
    if before.sha256 and before.sha256 != after.sha256:
        return replace(after, replaces=before.sha256)
    return replace(after, replaces=before.replaces if after.sha256 == before.sha256 else "")


def described(name: str, fields: Mapping[str, Any], config: TidemillConfig) -> AdapterConfig:
    """What somebody says of a new adapter, checked.

    Raises:
        CatalogueError: 400, in words that say what would be right.
    """
    check_name(name, config)
    bases = [model for model in config.models if config.adapter_pools(model)]
    given = dict(fields)
    if not given.get("base_model"):
        if len(bases) != 1:
            known = ", ".join(bases)
            message = f"Say which model it adapts: base_model, one of {known}."
            raise CatalogueError(400, "base_model_missing", message)
        given["base_model"] = bases[0]
    model = config.model_for(str(given["base_model"]))
    if model not in bases:
        known = ", ".join(bases) or "none"
        message = f"No pool of {given['base_model']!r} holds adapters; models whose pools do: {known}."
        raise CatalogueError(400, "base_model_without_adapters", message)
    return _validated({**given, "base_model": model})


def changed(card: AdapterCard, fields: Mapping[str, Any]) -> AdapterConfig:
    """What an adapter is after somebody has changed some of it, checked.

    Raises:
        CatalogueError: 400, in words that say what would be right.
    """
    if "base_model" in fields and fields["base_model"] != card.base_model:
        message = f"{card.name} adapts {card.base_model}; for another model, remove it and add it again."
        raise CatalogueError(400, "base_model_fixed", message)
    if not fields:
        raise CatalogueError(400, "nothing_to_change", f"Say what to change: {', '.join(sorted(FIELDS))}.")
    before = {
        "base_model": card.base_model,
        "source": card.source,
        "pinned": card.pinned,
        "prior_utility": card.prior_utility,
        "tags": card.tags,
    }
    return _validated({**before, **fields})


def check_name(name: str, config: TidemillConfig) -> None:
    """Refuse what cannot be an adapter's name.

    Raises:
        CatalogueError: 400.
    """
    if not _NAME.fullmatch(name):
        message = f"{name[:140]!r} cannot name an adapter: letters, digits, `.`, `_` and `-`, 128 at most."
        raise CatalogueError(400, "invalid_name", message)
    if name == OPEN or name in config.routing.auto.goals or config.model_for(name) is not None:
        raise CatalogueError(400, "invalid_name", f"{name!r} means something else already; choose another.")


def _validated(fields: Mapping[str, Any]) -> AdapterConfig:
    try:
        return AdapterConfig.model_validate(dict(fields))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise CatalogueError(400, "invalid_adapter", f"`{place}`: {first['msg']}.") from error


def check_fits(card: AdapterCard, cards: Collection[AdapterCard], config: TidemillConfig) -> None:
    """Refuse what pools cannot hold.

    Args:
        card: the adapter as it would be.
        cards: all of the catalogue after the change.
        config: of the cluster.

    Raises:
        CatalogueError: 409.
    """
    pinned = sum(other.pinned for other in cards if other.base_model == card.base_model)
    for pool, holder in config.adapter_pools(card.base_model).items():
        if card.rank > holder.rank_max:
            message = f"Its rank is {card.rank}, and pools.{pool}.adapters.rank_max is {holder.rank_max}."
            raise CatalogueError(409, "adapter_rank_too_large", message)
        if card.pinned and pinned > holder.pins_max:
            message = (
                f"{pinned} adapters of {card.base_model} would be pinned, and pool {pool} has "
                f"{holder.slots} slots, {holder.reserve_slots} of them in reserve; unpin one first."
            )
            raise CatalogueError(409, "too_many_pins", message)
