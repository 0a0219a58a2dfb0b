"""A request that leaves its model open: what its words say, what was chosen, what came of it."""

from collections.abc import Collection, Mapping
from dataclasses import replace

from cluster.entities.decision import DecisionRecord, ModelDecision
from cluster.entities.model_routing import Goal, ModelCandidate, ModelOutcome
from cluster.entities.reasons import Reason
from cluster.entities.workload import RequestSignals, Surface
from cluster.policy.routing.models.cascade import CascadeOption
from cluster.policy.routing.models.categories import CategoryGuess
from cluster.policy.routing.models.signals import model_signals
from deployments.messages import TextSignals
from deployments.model_learning.state import Event
from deployments.router.core import RouterCore
from deployments.router.generation.automatic import answer_signals, asks_for_json, retry_signals
from deployments.router.generation.relay import Relayed
from deployments.router.generation.user_text import last_user_text, user_texts
from deployments.router.models.choice import ModelRouter, OpenRequest
from deployments.router.tenants.gate import ONCE, Asks
from deployments.router.wire.requests import ParsedRequest


class OpenModel:
    """The choice of a model for one request, and what is learnt from it."""

    def __init__(
        self,
        core: RouterCore,
        models: ModelRouter,
        goal: Goal,
        *,
        request: ParsedRequest,
        signals: RequestSignals,
        headers: Mapping[str, str],
    ) -> None:
        """Take a request whose model is open.

        Args:
            core: the router's services.
            models: its choice of models.
            goal: what the client wants.
            request: as parsed.
            signals: as far as they do not depend on the model.
            headers: the client's.
        """
        self._core = core
        self._models = models
        self._goal = goal
        self._request = request
        self._signals = signals
        self._headers = headers
        self.text = last_user_text(request.body, request.surface)
        """What the user said last."""
        self._asked_for_text = False
        self._read: TextSignals | None = None
        self._open: OpenRequest | None = None
        self._failed: set[str] = set()
        self.decision: ModelDecision | None = None
        """The last choice."""

    @classmethod
    def of(
        cls,
        core: RouterCore,
        request: ParsedRequest,
        signals: RequestSignals,
        headers: Mapping[str, str],
    ) -> "OpenModel | None":
        """None if the client named a model."""
        if request.goal is None or core.models is None:
            return None
        return cls(core, core.models, request.goal, request=request, signals=signals, headers=headers)

    @property
    def judges_format(self) -> bool:
        """Whether the answer has to be kept to see if it is JSON."""
        return bool(self._core.config.routing.learning.automatic.format_weight) and asks_for_json(
            self._request
        )

    @property
    def cascades(self) -> bool:
        """Whether its answer is judged before it is sent: one plain answer whose form can be made again."""
        return (
            self._core.config.routing.models.cascade.enabled
            and self._request.surface in (Surface.CHAT, Surface.COMPLETIONS)
            and self._request.splittable
            and not self._request.body.get("tools")
        )

    @property
    def asks(self) -> Asks:
        """What the request may ask of engines."""
        if not self.cascades:
            return ONCE
        cascade = self._core.config.routing.models.cascade
        models = min(cascade.models_max, len(self._core.config.models))
        return Asks(models=models, judged=cascade.verifier != "margins")

    def further(self, asked: Collection[str]) -> tuple[CascadeOption, ...]:
        """The models that may still be asked."""
        assert self._open is not None  # noqa: S101 - something was chosen
        return self._models.options(self._open, {*asked, *self._failed})

    def expected_quality(self, model: str) -> float:
        """Of a model's answer, before it was seen."""
        assert self._open is not None  # noqa: S101 - something was chosen
        return next(o.quality for o in self._models.options(self._open) if o.model == model)

    def cost_usd(self, model: str, relayed: Relayed) -> float:
        """What an answer has cost."""
        prompt_tokens = (
            self._signals.prompt_tokens if relayed.prompt_tokens is None else relayed.prompt_tokens
        )
        return self._models.cost_usd(model, prompt_tokens, relayed.output_tokens)

    @property
    def ttft_slo_s(self) -> float:
        """By when the first token is promised."""
        return self._models.ttft_slo_s

    def wanted_text(self) -> tuple[str, float]:
        """What signals are wanted of, and how long they may take."""
        return self.text, self._core.config.routing.learning.text_signals_timeout_s

    def read(self, found: TextSignals | None) -> None:
        """What came with a look-up; it is not asked for again if nothing came in time."""
        self._asked_for_text, self._read = True, found

    async def choose(self) -> tuple[str, list[Reason]]:
        """The model to ask now, and what there is to say about how it was found."""
        reasons: list[Reason] = []
        if self._open is None:
            if self.text and not self._asked_for_text:
                text, wait_s = self.wanted_text()
                self.read(await self._core.cache.read_text(text, wait_s=wait_s))
            if self.text and self._read is None:
                reasons.append(Reason.TEXT_SIGNALS_MISSING)
            self._open = self._described()
        decision = self.decision = self._models.decide(self._open, self._failed)
        model = decision.choice.model
        if model is None:
            # Nobody can answer now; the request waits for the first model that has not failed on it.
            left = [name for name in self._core.config.models if name not in self._failed]
            return left[0] if left else self._core.config.default_model, reasons
        self._core.metrics.model_chosen(model, self._open.signals.goal)
        return model, reasons

    def failed(self, model: str) -> bool:
        """Note that a model did not answer; whether another one could."""
        self._failed.add(model)
        self._core.metrics.model_failed(model)
        return self._another()

    def should_leave(self, signals: RequestSignals) -> bool:
        """Whether a model that has just failed is to be left for another one at once."""
        return not self._models.is_usable(signals) and self._another(signals.model)

    def _another(self, *failing: str) -> bool:
        others = [m for m in self._core.config.models if m not in self._failed and m not in failing]
        return any(self._models.is_usable(replace(self._signals, model=model)) for model in others)

    def _described(self) -> OpenRequest:
        read, request, signals = self._read, self._request, self._signals
        category = CategoryGuess()
        if read is not None:
            category = CategoryGuess(category=read.category, confidence=read.category_confidence)
        found = model_signals(
            goal=self._goal,
            tenant=signals.tenant,
            user_text=self.text,
            turns=max(1, len(user_texts(request.body, request.surface))),
            tools=bool(request.body.get("tools")),
            prompt_tokens=signals.prompt_tokens,
            headers=self._headers,
            language="und" if read is None else read.language,
            embedding=() if read is None else read.embedding,
            category=category,
        )
        return OpenRequest(asked=request.model, signals=found, request=signals, cascades=self.cascades)

    def learn(
        self, record: DecisionRecord, request: ParsedRequest, relayed: Relayed | None, *, energy_j: float
    ) -> None:
        """Hand on what came of the request, once it is over; of a cascade, what all its models took."""
        link = self._core.learning
        now_s = self._core.wall_s()
        events: list[Event] = [*retry_signals(self._core, record, self.text, at_s=now_s)]
        left = Reason.CLIENT_LEFT in record.reasons
        if relayed is not None and record.status == 200 and (left or record.error is None):
            self._models.answered(record.signals.model, relayed.output_tokens)
            events.append(self._outcome(record, relayed, energy_j=energy_j, now_s=now_s))
            events += answer_signals(self._core, record, request, relayed, at_s=now_s)
        if link is not None:
            link.add(*events)

    def _outcome(
        self, record: DecisionRecord, relayed: Relayed, *, energy_j: float, now_s: float
    ) -> ModelOutcome:
        decision, model, timeline = self.decision, record.signals.model, record.timeline
        assert decision is not None  # noqa: S101 - an engine has answered
        cost_usd = sum(step.cost_usd for step in record.cascade) or self.cost_usd(model, relayed)
        said = next((c for c in decision.candidates if c.model == model), ModelCandidate(model=model))
        ended_at_s = self._core.now_s() if timeline.ended_at_s is None else timeline.ended_at_s
        return ModelOutcome(
            decision_id=record.decision_id,
            model=model,
            signals=decision.signals,
            propensity=decision.choice.propensities.get(model, 0.0),
            offered=tuple(decision.choice.propensities),
            cost_usd=cost_usd,
            energy_j=energy_j,
            predicted_cost_usd=said.cost_usd,
            predicted_energy_j=said.energy_j,
            ttft_s=timeline.ttft_s or 0.0,
            latency_s=ended_at_s - timeline.arrived_at_s,
            at_s=now_s,
        )
