"""One request for an adapter: which one it gets, what is told of it, and what is learnt from its answer."""

from collections.abc import Mapping

import orjson

from cluster.entities.adapter_routing import AdapterAnswer, AdapterDecision
from cluster.entities.decision import DecisionRecord
from cluster.entities.reasons import Reason
from deployments.messages import ADAPTER_SERVED, TextSignals
from deployments.router.adapters.outcomes import judgeable
from deployments.router.adapters.view import Adapters
from deployments.router.core import RouterCore
from deployments.router.generation.automatic import answer_signals, asks_for_json, retry_signals
from deployments.router.generation.relay import Relayed
from deployments.router.generation.user_text import last_user_text
from deployments.router.wire.requests import AskedAdapter, ParsedRequest


class AdapterRequest:
    """The adapter of one request."""

    def __init__(self, core: RouterCore, adapters: Adapters, request: ParsedRequest) -> None:
        """Take a request for an adapter, named or left open."""
        self._core = core
        self._adapters = adapters
        self._asked = str(request.body["model"])
        self._found = AskedAdapter(request.model, request.adapter)
        self.text = last_user_text(request.body, request.surface) if request.opens_adapter else ""
        """What the user said last, where the adapter is left open."""
        self.judges_format = (
            request.opens_adapter
            and bool(core.config.routing.learning.automatic.format_weight)
            and asks_for_json(request)
        )
        """Whether the answer has to be kept to see if it is JSON."""
        self._asked_for_text = False
        self._read: TextSignals | None = None
        self.decision: AdapterDecision | None = None
        """The choice."""
        self.answer: AdapterAnswer | None = None
        """What the replica said of it."""

    @classmethod
    def of(cls, core: RouterCore, request: ParsedRequest) -> "AdapterRequest | None":
        """None if the request is for a base model."""
        if core.adapters is None or not (request.adapter or request.opens_adapter):
            return None
        return cls(core, core.adapters, request)

    @property
    def weights(self) -> str | None:
        """What stands for the weights that answer; None while that is uncertain."""
        return self._adapters.names.weights(self._found.model, self._found.adapter)

    def wanted_text(self) -> tuple[str, float]:
        """What signals are wanted of, and how long they may take."""
        wait_s = self._core.config.routing.learning.text_signals_timeout_s
        return self.text, wait_s if self.text else 0.0

    def read(self, found: TextSignals | None) -> None:
        """What came with a look-up; it is not asked for again if nothing came in time."""
        self._asked_for_text, self._read = True, found

    async def choose(self, reasons: list[Reason]) -> str:
        """The adapter's name, empty for the base model; adds what there is to say about how it was found."""
        if self.text and not self._asked_for_text:
            text, wait_s = self.wanted_text()
            self.read(await self._core.cache.read_text(text, wait_s=wait_s))
        if self.text and self._read is None:
            reasons.append(Reason.TEXT_SIGNALS_MISSING)
        embedding = () if self._read is None else self._read.embedding
        self.decision = self._adapters.decide(self._asked, self._found, embedding)
        return self.decision.adapter

    def headers(self, *, may_differ: bool) -> dict[str, str]:
        """What the replica's pager should know.

        Args:
            may_differ: whether another one would do, too: not with a ticket, nor amid an answer.
        """
        return self._adapters.headers(self.decision, may_differ=may_differ)

    def gone_on(self, body: bytes) -> bytes:
        """A request to go on with an answer: for the adapter that began it, whichever had been chosen."""
        if self.answer is None or self.decision is None or self.answer.adapter == self.decision.adapter:
            return body
        model = self._found.model
        name = f"{model}:{self.answer.adapter}" if self.answer.adapter else model
        return orjson.dumps({**orjson.loads(body), "model": name})

    def answered(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Take what a replica says of the adapter that answers; the headers of the client's answer."""
        self.answer = self._adapters.answered(headers)
        return {} if self.answer is None else {ADAPTER_SERVED: self.answer.adapter}

    def is_still(self, weights: str | None) -> bool:
        """Whether an answer may be stored for these weights: of the adapter that was to give it."""
        if self.answer is not None and self.decision is not None:
            as_chosen = self.answer.adapter == self.decision.adapter
            return as_chosen and self.weights == weights
        return self.weights == weights

    def stored(self, name: str | None) -> dict[str, str]:
        """The headers of a stored answer that says it is from a model of this name."""
        _, separator, adapter = (name or "").partition(":")
        return {ADAPTER_SERVED: adapter} if separator else {}

    def learn(self, record: DecisionRecord, request: ParsedRequest, relayed: Relayed | None) -> None:
        """Remember an answer that judgements may come for, with what it shows itself."""
        answer = judgeable(record)
        if answer is None or relayed is None:
            return
        now_s = self._core.wall_s()
        self._adapters.outcomes.remember(answer)
        signals = retry_signals(self._core, record, self.text, at_s=now_s)
        signals += answer_signals(self._core, record, request, relayed, at_s=now_s)
        self._adapters.outcomes.add(signals)
