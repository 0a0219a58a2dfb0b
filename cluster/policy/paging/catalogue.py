"""The adapters of a configuration as a catalogue: where nodes, routers and the coordinator begin."""

from collections.abc import Iterable

from cluster.config.adapters import AdapterConfig
from cluster.config.root import TidemillConfig
from cluster.entities.adapters import AdapterCard, AdapterCatalogue


def card_of(name: str, entry: AdapterConfig) -> AdapterCard:
    """The card of an adapter as it is described."""
    return AdapterCard(
        name=name,
        base_model=entry.base_model,
        source=entry.source,
        sha256=entry.sha256 or "",
        pinned=entry.pinned,
        prior_utility=entry.prior_utility,
        tags=dict(entry.tags),
    )


def ordered(cards: Iterable[AdapterCard]) -> tuple[AdapterCard, ...]:
    """As catalogues have them."""
    return tuple(sorted(cards, key=lambda card: (card.base_model, card.name)))


def configured_catalogue(config: TidemillConfig) -> AdapterCatalogue:
    """What the configuration names, before anything was added or removed."""
    cards = (card_of(name, entry) for name, entry in config.adapters.catalogue.items())
    return AdapterCatalogue(version=0, adapters=ordered(cards))
