"""Brings judgements of answers to the node whose adapter gave them, where they are learnt from.

What an answer shows itself waits in a bounded outbox while the node does not take it. A caller's judgement is
brought at once, so that the caller hears what became of it. Nodes count an id once, so sending twice does no
harm; when the node that answered is gone, another one of the same model learns in its place.
"""

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp
import orjson

from cluster.config.model_learning import ModelLearningConfig
from cluster.entities.adapters import AdapterOutcome
from cluster.entities.decision import DecisionRecord
from cluster.entities.pool import ReplicaId, ReplicaReport
from cluster.replay.codec import encode
from deployments.adapter_messages import OUTCOMES_PATH
from deployments.model_learning.state import Feedback, FeedbackResult
from deployments.router.wire.errors import overloaded

logger = logging.getLogger("tidemill.router.adapters")

_GATHER_S = 0.1
"""Judgements of so long a time travel together."""
_RETRY_S = 1.0
_GIVE_UP_S = 120.0
"""An outcome that no node has taken for so long is dropped and counted."""


@dataclass(slots=True, kw_only=True)
class JudgeableAnswer:
    """An answer of an adapter that judgements may still come for."""

    decision_id: str
    tenant: str
    """Whose request it answered."""
    model: str
    sha256: str
    """Of the adapter that answered."""
    x: tuple[float, ...]
    replica_id: ReplicaId
    """Which gave it."""
    at_s: float
    """Unix time of its end."""
    rewards: dict[str, float] = field(default_factory=dict)
    """By source and signal, those that this router has brought."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Waiting:
    answer: JudgeableAnswer
    outcome: AdapterOutcome
    since_s: float


class NodesAwayError(Exception):
    """No node took a judgement."""


class AdapterOutcomes:
    """The judgements of one router."""

    def __init__(
        self,
        config: ModelLearningConfig,
        *,
        nodes: Callable[[str], Sequence[ReplicaReport]],
        session: Callable[[], aiohttp.ClientSession],
        find_record: Callable[[str], Awaitable[DecisionRecord | None]],
        now_s: Callable[[], float],
        on_drop: Callable[[], None],
        on_delivered: Callable[[float], None],
    ) -> None:
        """Prepare; nothing runs before `start`.

        Args:
            config: bounds and windows, those of all learning.
            nodes: the replicas with adapters of a model.
            session: for HTTP.
            find_record: a logged decision, of any router; None if it is unknown.
            now_s: Unix time.
            on_drop: called for every judgement that is lost.
            on_delivered: called with the seconds from an answer's end to its judgement's arrival.
        """
        self._config = config
        self._nodes = nodes
        self._session = session
        self._find_record = find_record
        self._now_s = now_s
        self._on_drop = on_drop
        self._on_delivered = on_delivered
        self._answers: OrderedDict[str, JudgeableAnswer] = OrderedDict()
        self._outbox: deque[_Waiting] = deque()
        self._something = asyncio.Event()
        self._task: asyncio.Task[Any] | None = None

    def start(self) -> None:
        """Begin sending in the background."""
        self._task = asyncio.create_task(self._send_for_ever())

    async def close(self) -> None:
        """Send what waits, if it is taken now, and stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        try:
            async with asyncio.timeout(_RETRY_S):
                await self._send()
        except TimeoutError:
            logger.warning("%d judgements are lost with this router", len(self._outbox))

    def remember(self, answer: JudgeableAnswer) -> None:
        """An answer that judgements may come for."""
        self._answers[answer.decision_id] = answer
        while len(self._answers) > self._config.pending_max:
            self._answers.popitem(last=False)

    def add(self, signals: Iterable[Feedback]) -> None:
        """What answers show themselves. Never waits; what is unknown here is passed over."""
        for signal in signals:
            answer = self._answers.get(signal.decision_id)
            if answer is None or signal.key in answer.rewards:
                continue
            if len(self._outbox) >= self._config.outbox_max:
                self._on_drop()
                continue
            answer.rewards[signal.key] = signal.reward
            waiting = _Waiting(answer=answer, outcome=_outcome(answer, signal), since_s=self._now_s())
            self._outbox.append(waiting)
        self._something.set()

    async def judge(self, feedback: Feedback) -> FeedbackResult | None:
        """Bring one judgement to a node; None if no adapter that was chosen gave its tenant this answer.

        Raises:
            ApiError: 503, no node takes it.
        """
        answer = self._answers.get(feedback.decision_id) or await self._from_log(feedback.decision_id)
        if answer is None or not feedback.concerns(answer.tenant):
            return None
        if feedback.at_s - answer.at_s > self._config.feedback_window_s:
            return FeedbackResult.UNKNOWN
        before = answer.rewards.get(feedback.key)
        if before is not None:
            return FeedbackResult.REPEATED if before == feedback.reward else FeedbackResult.CONFLICTING
        try:
            async with asyncio.timeout(self._config.feedback_timeout_s):
                counted = await self._deliver(answer, [_outcome(answer, feedback)])
        except (TimeoutError, NodesAwayError) as error:
            message = f"No replica that could learn from it answers: {error or 'timed out'}"
            raise overloaded(message, status=503, retry_after_s=2) from error
        answer.rewards[feedback.key] = feedback.reward
        return FeedbackResult.COUNTED if counted else FeedbackResult.REPEATED

    async def _from_log(self, decision_id: str) -> JudgeableAnswer | None:
        """An answer of another router, from its record."""
        record = await self._find_record(decision_id)
        answer = None if record is None else judgeable(record)
        if answer is not None:
            self.remember(answer)
        return answer

    async def _deliver(self, answer: JudgeableAnswer, outcomes: Sequence[AdapterOutcome]) -> int:
        """How many of one answer's outcomes were news to the node that took them.

        Raises:
            NodesAwayError: nobody took them.
        """
        nodes = sorted(self._nodes(answer.model), key=lambda node: node.replica_id != answer.replica_id)
        if not nodes:
            raise NodesAwayError(f"no replica of {answer.model} with adapters is known")
        body = orjson.dumps([encode(outcome) for outcome in outcomes])
        failure = ""
        for node in nodes:
            try:
                async with self._session().post(
                    node.url + OUTCOMES_PATH,
                    data=body,
                    headers={"content-type": "application/json"},
                    timeout=aiohttp.ClientTimeout(total=self._config.feedback_timeout_s),
                ) as response:
                    content = await response.read()
                    if response.status == 200:
                        self._on_delivered(max(0.0, self._now_s() - answer.at_s))
                        return int(orjson.loads(content)["counted"])
                    failure = f"{node.replica_id}: status {response.status} {content[:200]!r}"
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError, TypeError) as error:
                failure = f"{node.replica_id}: {type(error).__name__}: {error}"
        raise NodesAwayError(failure)

    async def _send_for_ever(self) -> None:
        while True:
            await self._something.wait()
            await asyncio.sleep(_GATHER_S)
            self._something.clear()
            if not await self._send():
                self._something.set()
                await asyncio.sleep(_RETRY_S)

    async def _send(self) -> bool:
        """Whether all that waited has gone."""
        for _ in range(len(self._outbox)):
            waiting = self._outbox[0]
            try:
                await self._deliver(waiting.answer, [waiting.outcome])
            except NodesAwayError as error:
                if self._now_s() - waiting.since_s < _GIVE_UP_S:
                    logger.warning("judgement not delivered: %s", error)
                    return False
                self._on_drop()
            self._outbox.popleft()
        return True


def judgeable(record: DecisionRecord) -> JudgeableAnswer | None:
    """What judgements of a logged answer need; None if no adapter was chosen, or the answer failed."""
    choice, replica = record.adapter_choice, record.replica
    if choice is None or choice.named or not choice.x or record.status != 200 or replica is None:
        return None
    # A node may have answered with an adapter that it had at hand; that is then the one to learn of.
    sha256 = choice.sha256 if record.adapter_answer is None else record.adapter_answer.sha256
    chosen = replica.choice.replica_id
    if chosen is None or not sha256:
        return None
    ended_at_s = record.timeline.ended_at_s
    elapsed_s = 0.0 if ended_at_s is None else ended_at_s - record.timeline.arrived_at_s
    return JudgeableAnswer(
        decision_id=record.decision_id,
        tenant=record.signals.tenant,
        model=record.signals.model,
        sha256=sha256,
        x=choice.x,
        replica_id=chosen,
        at_s=record.at_wall_s + elapsed_s,
    )


def _outcome(answer: JudgeableAnswer, feedback: Feedback) -> AdapterOutcome:
    return AdapterOutcome(
        id=f"{feedback.decision_id}:{feedback.key}",
        adapter=answer.sha256,
        x=answer.x,
        utility=feedback.reward,
    )


def without_words(record: DecisionRecord) -> DecisionRecord:
    """A record without the vector that was made of the request's words."""
    choice = record.adapter_choice
    if choice is None or not choice.text_read:
        return record
    return replace(record, adapter_choice=replace(choice, x=()))
