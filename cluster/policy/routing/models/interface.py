"""The shape of every model-routing policy.

`choose` runs in the routers on a snapshot of the state; `learn` runs in the one process that owns the state
(the learner). Both are pure: chance and time are arguments.
"""

from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from cluster.entities.model_routing import ModelCandidate, ModelChoice, ModelOutcome, ModelSignals

StateT = TypeVar("StateT")


class ModelPolicy(Protocol, Generic[StateT]):
    """Chooses models and learns from what came of it."""

    @property
    def name(self) -> str:
        """As in `routing.models.policy`."""

    def initial(self) -> StateT:
        """The state before anything was learnt (a warm start included)."""

    def choose(
        self,
        signals: ModelSignals,
        candidates: Sequence[ModelCandidate],
        state: StateT,
        *,
        now_s: float,
        draw: float,
    ) -> ModelChoice:
        """Choose a model.

        Args:
            signals: of the request.
            candidates: every model that the caller may be given, usable or not.
            state: a snapshot, possibly some seconds old.
            now_s: Unix time.
            draw: a number in [0, 1), the only chance that the choice may use.

        Raises:
            ValueError: the draw lies outside [0, 1).
        """

    def learn(self, state: StateT, outcome: ModelOutcome, *, now_s: float) -> StateT:
        """The state after one more outcome; an outcome without `quality` still teaches cost and energy."""

    def to_json(self, state: StateT) -> bytes:
        """For the disk: complete, so that `from_json` gives an equal state."""

    def from_json(self, data: bytes) -> StateT:
        """Read what `to_json` wrote.

        Raises:
            ValueError: it is not a state of this policy, or not of this shape.
        """
