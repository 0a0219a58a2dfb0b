"""The adapters that clients may ask for, as one router knows them: names, weights, and where they lie.

The catalogue comes from the coordinator through the directory; until it has spoken, the configured one
counts, so that a cluster without a coordinator serves what its file says.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from cluster.config import TidemillConfig
from cluster.entities.adapters import AdapterCard, AdapterCatalogue, AdapterTier
from cluster.entities.pool import ReplicaPhase, ReplicaReport
from cluster.policy.paging.catalogue import configured_catalogue
from deployments.messages import PublishedAdapters
from deployments.router.wire.errors import ApiError
from deployments.router.wire.requests import AskedAdapter

OPEN = "auto"
"""`BASE:auto` leaves the adapter open."""
_NAMES_SHOWN = 30


class AdapterNames:
    """The catalogue, joined with what replicas report."""

    def __init__(self, config: TidemillConfig) -> None:
        self._config = config
        self.bases = tuple(model for model in config.models if config.adapter_pools(model))
        """Models that have adapters."""
        self.published: PublishedAdapters | None = None
        """What the coordinator said last; kept while it and the directory are away."""
        self._given = configured_catalogue(config)
        self.catalogue = self._given
        """With the hashes that replicas know and it does not."""
        self._cards: dict[str, AdapterCard] = {}
        self._in_transition: set[str] = set()
        self._weights: dict[tuple[str, str], str | None] = {}
        self._places: dict[str, list[tuple[ReplicaReport, AdapterTier, bool]]] = {}
        self._reports: Sequence[ReplicaReport] = ()
        self._refresh()

    def apply(self, published: PublishedAdapters | None, reports: Sequence[ReplicaReport]) -> None:
        """Take a new picture of the fleet."""
        if published is not None:
            self.published = published
            if published.catalogue.version > self._given.version:
                self._given = published.catalogue
        self._reports = [report for report in reports if report.model in self.bases]
        self._refresh()

    def take(self, catalogue: AdapterCatalogue) -> None:
        """Take a catalogue that came past the directory: what was just acknowledged counts at once."""
        if catalogue.version > self._given.version:
            self._given = catalogue
            self._refresh()

    def _refresh(self) -> None:
        told: dict[tuple[str, str], set[str]] = {}
        self._places, self._weights = {}, {}
        for report in self._reports:
            for found in report.adapters:
                self._places.setdefault(found.name, []).append((report, found.tier, found.pinned))
                if found.sha256 and report.phase is ReplicaPhase.READY:
                    told.setdefault((report.model, found.name), set()).add(found.sha256)
        cards = []
        self._in_transition = set()
        for given in self._given.adapters:
            known = told.get((given.base_model, given.name), set())
            sure = next(iter(known)) if len(known) == 1 else ""
            card = given if given.sha256 else replace(given, sha256=sure)
            if not card.sha256 or known - {card.sha256}:
                self._in_transition.add(card.name)
            cards.append(card)
        self.catalogue = AdapterCatalogue(version=self._given.version, adapters=tuple(cards))
        self._cards = {card.name: card for card in cards}

    def card(self, name: str) -> AdapterCard | None:
        """What the catalogue says of an adapter."""
        return self._cards.get(name)

    def cards(self, model: str) -> tuple[AdapterCard, ...]:
        """All adapters of a model."""
        return tuple(card for card in self.catalogue.adapters if card.base_model == model)

    def asked(self, name: str) -> AskedAdapter | None:
        """What a name means that is neither a model's nor leaves the model open; None if nothing.

        Raises:
            ApiError: 404, it names an adapter of a model that has adapters, and there is none.
        """
        if not self._config.routes_models and name in self._config.routing.auto.goals:
            return AskedAdapter(self.bases[0], "") if len(self.bases) == 1 else None
        base, separator, adapter = name.rpartition(":")
        if not separator:
            card = self._cards.get(name)
            return None if card is None else AskedAdapter(card.base_model, name)
        model = self._config.model_for(base)
        if model is None or model not in self.bases:
            return None
        if adapter == OPEN:
            return AskedAdapter(model, "")
        card = self._cards.get(adapter)
        if card is None or card.base_model != model:
            raise self.unknown(name, model)
        return AskedAdapter(model, adapter)

    def unknown(self, name: str, model: str) -> ApiError:
        """404 with what would be right."""
        known = [f"{model}:{card.name}" for card in self.cards(model)]
        shown = ", ".join(known[:_NAMES_SHOWN]) or "none yet"
        more = f" and {len(known) - _NAMES_SHOWN} more" if len(known) > _NAMES_SHOWN else ""
        message = f"The model {name!r} does not exist. Adapters of {model}: {shown}{more}."
        return ApiError(status=404, message=message, code="model_not_found", param="model")

    def open_names(self, model: str) -> list[str]:
        """Names that leave the adapter of a model open."""
        own = [f"{model}:{OPEN}"]
        if len(self.bases) == 1 and not self._config.routes_models:
            own += [name for name in self._config.routing.auto.goals if self._config.model_for(name) is None]
        return own

    def weights(self, model: str, adapter: str) -> str | None:
        """What stands for the weights that answer, for identities of stored answers.

        None while they are not known, or replicas differ: then an answer may be of either weights. For an
        adapter that is left open, all of the model's adapters count.
        """
        known = (model, adapter)
        if known not in self._weights:
            cards = [self._cards[adapter]] if adapter in self._cards else self.cards(model)
            certain = cards and not any(card.name in self._in_transition for card in cards)
            told = "\n".join(f"{card.name} {card.sha256}" for card in cards)
            self._weights[known] = hashlib.sha256(told.encode()).hexdigest() if certain else None
        return self._weights[known]

    def same_weights(self, adapter: str, one: ReplicaReport, other: ReplicaReport) -> bool:
        """Whether two replicas know an adapter by the same weights, or one of them does not know it yet."""
        found = [
            {entry.sha256 for entry in report.adapters if entry.name == adapter and entry.sha256}
            for report in (one, other)
        ]
        return not all(found) or found[0] == found[1]

    def residency(self, adapter: str) -> Sequence[tuple[ReplicaReport, AdapterTier, bool]]:
        """Where an adapter lies, and whether it is pinned there."""
        return self._places.get(adapter, ())
