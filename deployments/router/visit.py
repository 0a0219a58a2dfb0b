"""A request's dealings at the door: with guardrails and its tenant's limits when it comes, with the bill when
it goes.
"""

from collections.abc import Iterable
from typing import Protocol

from cluster.entities.decision import DecisionRecord
from cluster.entities.reasons import Reason
from cluster.entities.workload import RequestSignals
from deployments.router.core import RouterCore
from deployments.router.guardrails.chain import Guarded
from deployments.router.tenants.gate import ONCE, Asks
from deployments.router.tenants.keys import Caller
from deployments.router.tenants.tenants import Admission
from deployments.router.wire.responder import Responder


class _Answer(Protocol):
    @property
    def tokens_seen(self) -> int: ...


class Visit:
    """One request's."""

    def __init__(self, core: RouterCore, caller: Caller | None, guarded: Guarded | None) -> None:
        """Nobody was asked yet.

        Args:
            core: the router's services.
            caller: who asks; None where nobody is asked for a key.
            guarded: what the guardrails made of the request; None without guardrails.
        """
        self._tenants = core.tenants
        self._caller = caller
        self._guarded = guarded
        self._admission: Admission | None = None
        self.models_max = 1
        """How many models may answer the request, one after the other: as many as were reserved for."""

    async def enter(
        self,
        signals: RequestSignals,
        answers: int,
        responder: Responder,
        reasons: list[Reason],
        asks: Asks = ONCE,
    ) -> None:
        """Be let in, or not.

        Args:
            signals: of the request.
            answers: how many it asks for.
            responder: gets the headers that tell of limits.
            reasons: get what there is to say about it.
            asks: what it may ask of engines.

        Raises:
            ApiError: 400, 402, 429 or 503.
        """
        if self._guarded is not None:
            reasons += self._guarded.reasons
            if self._guarded.refusal is not None:
                raise self._guarded.refusal
        self.models_max = asks.models
        if self._tenants is None or self._caller is None:
            return
        if asks is not ONCE:
            asks = self._tenants.fitting(self._caller, signals, answers, asks)
            self.models_max = asks.models
        size = self._tenants.size_of(self._caller, signals, answers, asks)
        self._admission = await self._tenants.admit(self._caller, size, responder.headers)
        if self._admission is not None and self._admission.reservation is None:
            reasons.append(Reason.LIMITS_UNCHECKED)

    def leave(self, record: DecisionRecord, answers: Iterable[_Answer]) -> None:
        """Settle what was reserved."""
        if self._admission is not None and self._tenants is not None:
            seen = sum(answer.tokens_seen for answer in answers)
            self._tenants.settle(self._admission, self._tenants.usage_of(record, seen))
