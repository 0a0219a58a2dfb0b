"""Chooses the model of a request that leaves it open, from the fleet's picture and what was learnt so far.

What was learnt comes in snapshots that others push; a request never waits for one.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from cluster.config import TidemillConfig
from cluster.entities.decision import ModelDecision
from cluster.entities.model_routing import ModelCandidate, ModelSignals
from cluster.entities.pool import MarginalEnergy, PoolName, ReplicaPhase, ReplicaView, Role
from cluster.entities.workload import RequestSignals
from cluster.performance.profiles import pool_performance
from cluster.policy.routing.models.cascade import CascadeOption
from cluster.policy.routing.models.cascade_start import first_model
from cluster.policy.routing.models.categories import CATEGORIES
from cluster.policy.routing.models.policies import model_policy
from cluster.policy.routing.models.scored import ScoredPolicy
from cluster.policy.routing.replicas.energy import marginal_energy, request_energy_j
from cluster.policy.routing.replicas.predicted import predicted_ttft_s
from deployments.model_learning.interface import ModelSnapshot
from deployments.router.fleet.view import FleetPicture

_ANSWERING = frozenset({Role.DECODE, Role.COMBINED})
_LENGTH_MEMORY = 0.05
"""Weight of the newest answer in the mean length of a model's answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRequest:
    """A request whose model is open, with all that the choice may look at."""

    asked: str
    """The name that leaves the model open."""
    signals: ModelSignals
    request: RequestSignals
    """As far as they do not depend on the model."""
    cascades: bool = False
    """Whether answers are judged before they are sent."""


class ModelRouter:
    """The policy with its last snapshot, and what this router has seen of the models' answers."""

    def __init__(
        self,
        config: TidemillConfig,
        picture: FleetPicture,
        *,
        now_s: Callable[[], float],
        wall_s: Callable[[], float],
        draw: Callable[[], float],
    ) -> None:
        """Start with what the policy knows before anything was learnt."""
        self._config = config
        self._picture = picture
        self._now_s = now_s
        self._wall_s = wall_s
        self._draw = draw
        self._policy = model_policy(config.routing.models, tuple(config.models), categories=CATEGORIES)
        self._state: Any = self._policy.initial()
        self.version = 0
        """Of the last snapshot."""
        self.heard_at_s = wall_s()
        """When the learner last said what it knows."""
        self._asked: Counter[str] = Counter()
        self._output_tokens = dict.fromkeys(
            config.models, float(config.routing.learning.assumed_output_tokens)
        )
        self._profiles = {
            PoolName(name): pool_performance(pool, config.models[pool.model])
            for name, pool in config.pools.items()
        }

    def apply(self, snapshot: ModelSnapshot) -> None:
        """Take what was learnt; another policy's is left alone (a configuration is being changed)."""
        if snapshot.policy == self._policy.name:
            self._state, self.version = snapshot.state, snapshot.version
            self.heard_at_s = self._wall_s()

    def decide(self, request: OpenRequest, exclude: Collection[str] = ()) -> ModelDecision:
        """Choose a model.

        Args:
            request: whose model is open.
            exclude: models that were asked already and failed.
        """
        candidates = self._candidates(request.request, exclude)
        now_s, draw = self._wall_s(), self._draw()
        if request.cascades:
            choice = first_model(
                self._options(request, candidates),
                self._config.routing.models,
                policy=self._policy.name,
                ttft_slo_s=self.ttft_slo_s,
                draw=draw,
            )
        else:
            choice = self._policy.choose(request.signals, candidates, self._state, now_s=now_s, draw=draw)
        if choice.model is not None:
            self._asked[choice.model] += 1
        return ModelDecision(
            asked=request.asked,
            signals=request.signals,
            candidates=candidates,
            decided_at_s=now_s,
            draw=draw,
            choice=replace(choice, version=self.version),
        )

    def options(self, request: OpenRequest, exclude: Collection[str] = ()) -> tuple[CascadeOption, ...]:
        """The models that a cascade may go on to, as they stand now."""
        return self._options(request, self._candidates(request.request, exclude))

    def _options(
        self, request: OpenRequest, candidates: tuple[ModelCandidate, ...]
    ) -> tuple[CascadeOption, ...]:
        models = [candidate.model for candidate in candidates]
        quality = dict.fromkeys(models, self._config.routing.models.linear.prior_quality)
        if isinstance(self._policy, ScoredPolicy) and models:
            quality = self._policy.expected_quality(request.signals, models, self._state)
        return tuple(
            CascadeOption(
                model=candidate.model,
                quality=quality[candidate.model],
                cost_usd=candidate.cost_usd,
                ttft_s=candidate.ttft_s,
                usable=candidate.usable,
            )
            for candidate in candidates
        )

    @property
    def ttft_slo_s(self) -> float:
        """The strictest promise of all models: whichever answers, the caller asked for any of them."""
        return min(entry.slo.ttft_s for entry in self._config.models.values())

    def answered(self, model: str, output_tokens: int) -> None:
        """Take in how long an answer was."""
        if output_tokens > 0:
            self._output_tokens[model] += _LENGTH_MEMORY * (output_tokens - self._output_tokens[model])

    def cost_usd(self, model: str, prompt_tokens: float, output_tokens: float) -> float:
        """What so many tokens cost."""
        return self._config.models[model].cost_usd(prompt_tokens, output_tokens)

    def is_usable(self, signals: RequestSignals) -> bool:
        """Whether a replica of the request's model is there that has not just failed."""
        return bool(self._healthy(self._picture.views(signals, _ANSWERING)))

    def _healthy(self, views: Collection[ReplicaView]) -> list[ReplicaView]:
        now_s = self._now_s()
        return [v for v in views if v.phase is ReplicaPhase.READY and v.put_aside_until_s <= now_s]

    def _candidates(self, signals: RequestSignals, exclude: Collection[str]) -> tuple[ModelCandidate, ...]:
        views = {
            model: self._picture.views(replace(signals, model=model, block_hashes=()), _ANSWERING)
            for model in self._config.models
            if model not in exclude
        }
        healthy = {model: self._healthy(found) for model, found in views.items()}
        free = {
            model: [v for v in found if v.requests_in_flight < v.max_concurrent_requests]
            for model, found in healthy.items()
        }
        # Where all are full the request waits, and where all have failed one of them is tried.
        tried: tuple[Mapping[str, Collection[ReplicaView]], ...] = (free, healthy, views)
        usable = next((found for found in tried if any(found.values())), views)
        return tuple(
            self._candidate(signals, model, usable[model] or found, usable=bool(usable[model]))
            for model, found in views.items()
        )

    def _candidate(
        self, signals: RequestSignals, model: str, views: Collection[ReplicaView], *, usable: bool
    ) -> ModelCandidate:
        output = self._output_tokens[model]
        if signals.max_output_tokens is not None:
            output = min(output, signals.max_output_tokens)
        cost_usd = self.cost_usd(model, signals.prompt_tokens, output)
        if not views:
            start_s = min(self._profiles[PoolName(name)].start_s for name in self._config.pools_of(model))
            return ModelCandidate(model=model, cost_usd=cost_usd, ttft_s=start_s, usable=False)
        assumed = self._config.routing.replicas.assumed_prefill_tokens_per_s
        ttft_s, view = min(
            (
                (predicted_ttft_s(signals.prompt_tokens, view, assumed_tokens_per_s=assumed), view)
                for view in views
            ),
            key=lambda found: found[0],
        )
        view = replace(view, energy=view.energy or self._profile_energy(view))
        energy_j = request_energy_j(signals, view, assumed_output_tokens=max(1, round(output)))
        return ModelCandidate(
            model=model,
            cost_usd=cost_usd,
            energy_j=energy_j or 0.0,
            ttft_s=ttft_s,
            usable=usable,
            asked=0 if energy_j else self._asked[model],
        )

    def _profile_energy(self, view: ReplicaView) -> MarginalEnergy:
        """Before the provisioner has said anything of a pool, what its profile says."""
        return marginal_energy(
            self._profiles[view.pool],
            sequences=view.requests_in_flight,
            context_tokens=view.decode_tokens,
        )
