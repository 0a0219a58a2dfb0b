"""A replica taken for a request: the decisions that led to it and the weight it puts there."""

from dataclasses import dataclass

from cluster.entities.decision import PathDecision, ReplicaDecision
from cluster.entities.pool import ReplicaId, ReplicaView
from cluster.entities.reasons import Reason
from cluster.entities.routing import Path
from cluster.entities.workload import RequestSignals
from cluster.policy.admission import Verdict, shed
from cluster.policy.disaggregation import choose_path
from cluster.policy.routing.replicas.predicted import predicted_ttft_s
from deployments.router.core import RouterCore
from deployments.router.fleet.view import Dispatch
from deployments.router.wire.errors import ApiError, overloaded

_WHY_NOT = {
    Reason.NO_REPLICA: "No replica of the model is running.",
    Reason.ALL_FULL: "All replicas of the model are at their limit.",
    Reason.ALL_PUT_ASIDE: "All replicas of the model have just failed.",
}


@dataclass(slots=True)
class Grant:
    """The answering replica, and whether a prefill replica computes the prompt for it."""

    decision: ReplicaDecision
    path: PathDecision | None
    view: ReplicaView
    dispatch: Dispatch
    queued: bool = False
    """Whether the request stood in line for it."""

    @property
    def disaggregated(self) -> bool:
        """Whether a ticket is to be fetched first."""
        return self.path is not None and self.path.choice.path is Path.DISAGGREGATED


class Grants:
    """Takes replicas for requests, waiting in the queue where none is free."""

    def __init__(self, core: RouterCore) -> None:
        self._core = core

    async def take(
        self,
        signals: RequestSignals,
        exclude: set[ReplicaId],
        *,
        may_split: bool,
        deadline_at_s: float | None = None,
    ) -> Grant:
        """The replica that answers; its dispatch is the caller's to release.

        Args:
            signals: the request.
            exclude: replicas on which it has failed.
            may_split: whether a ticket may be fetched for it (not on a second attempt).
            deadline_at_s: by when the first token is wanted; None for whenever it comes.

        Raises:
            ApiError: 429 if the queue is full, 503 if no replica came in time.
        """
        last: list[ReplicaDecision] = []
        waited: list[bool] = []
        timeout_s = self._core.config.gateway.queue_timeout_s
        if deadline_at_s is not None:
            timeout_s = min(timeout_s, max(0.0, deadline_at_s - self._core.now_s()))

        def attempt() -> Grant | None:
            decision = self._core.choose_answering(signals, exclude)
            last[:] = [decision]
            if decision.choice.replica_id is None:
                return None
            self._shed(signals, decision, deadline_at_s)
            return self.grant(signals, decision, may_split=may_split)

        def why() -> str:
            reasons = last[0].choice.reasons if last else ()
            return next(
                (_WHY_NOT[reason] for reason in reasons if reason in _WHY_NOT), "No replica was free."
            )

        found = await self._core.queue.until(
            attempt,
            key=signals.model,
            tenant=signals.tenant,
            cost_tokens=signals.prompt_tokens + (signals.max_output_tokens or 0),
            wants=(signals.adapter, frozenset(exclude)),
            discard=lambda grant: grant.dispatch.release(),
            timeout_s=timeout_s,
            why=why,
            on_wait=lambda: waited.append(True),
        )
        found.queued = bool(waited)
        return found

    def _shed(self, signals: RequestSignals, decision: ReplicaDecision, deadline_at_s: float | None) -> None:
        """429 instead of an answer that would come too late, where the configuration says what that is."""
        view = next(v for v in decision.candidates if v.replica_id == decision.choice.replica_id)
        ttft_s = predicted_ttft_s(signals.prompt_tokens, view)
        if deadline_at_s is not None and self._core.now_s() + ttft_s > deadline_at_s:
            raise overloaded(
                f"The first token would take about {ttft_s:.1f} s, which is past the deadline.",
                status=429,
                retry_after_s=1,
                reason=Reason.DEADLINE_MISSED,
            )
        admission = shed(ttft_s=ttft_s, config=self._core.config.gateway)
        if admission.verdict is Verdict.REJECT:
            raise overloaded(
                f"The first token would take about {ttft_s:.0f} s.",
                status=429,
                retry_after_s=admission.retry_after_s,
                reason=admission.reason,
            )

    def grant(self, signals: RequestSignals, decision: ReplicaDecision, *, may_split: bool) -> Grant:
        """Count a request in on the replica that a decision chose."""
        chosen = decision.choice.replica_id
        assert chosen is not None  # noqa: S101 - checked by the callers
        view = next(view for view in decision.candidates if view.replica_id == chosen)
        path = self._path(signals, view) if may_split and signals.surface.generates else None
        split = path is not None and path.choice.path is Path.DISAGGREGATED
        dispatch = self._core.picture.dispatch(chosen, signals, computed_elsewhere=split)
        return Grant(decision, path, view, dispatch)

    def _path(self, signals: RequestSignals, view: ReplicaView) -> PathDecision:
        prefill = self._core.prefilling(signals, view)
        now_s = self._core.now_s()
        choice = choose_path(signals, view, prefill, self._core.config.routing.disaggregation, now_s=now_s)
        return PathDecision(decode=view, prefill=prefill, decided_at_s=now_s, choice=choice)


def no_replica(decision: ReplicaDecision) -> ApiError:
    """503 in words."""
    reasons = decision.choice.reasons
    words = next((_WHY_NOT[reason] for reason in reasons if reason in _WHY_NOT), "No replica is free.")
    return overloaded(words, status=503, retry_after_s=2)
