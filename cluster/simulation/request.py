"""One request on its way through the simulated fleet."""

from typing import Any, Protocol

from cluster.entities.routing import Path


class Placement(Protocol):
    """A request's weight on one replica (`fleet.Dispatch`)."""

    uncached_tokens: int

    @property
    def replica(self) -> Any:
        """The `SimulatedReplica`; its module knows this one."""
        ...

    def first_token(self, request: "SimulatedRequest") -> None:
        """The prompt has been computed; from now on the request decodes."""
        ...

    def recompute(self, uncached_tokens: int) -> None:
        """The prompt comes with no ticket after all."""
        ...

    def release(self, request: "SimulatedRequest") -> None:
        """The request is over there."""
        ...


class SimulatedRequest:
    """Mutable, with slots: a simulated day has a million of them."""

    __slots__ = (
        "answering",
        "arrived_at_s",
        "attempts",
        "blocks",
        "cached_tokens",
        "computed_tokens",
        "ended_at_s",
        "epoch",
        "failed",
        "first_token_at_s",
        "index",
        "joined_step",
        "model",
        "output_tokens",
        "path",
        "prefilling",
        "produced_tokens",
        "prompt_tokens",
        "queued_at_s",
    )

    def __init__(
        self,
        index: int,
        model: str,
        arrived_at_s: float,
        prompt_tokens: int,
        output_tokens: int,
        *,
        blocks: tuple[int, ...] = (),
    ) -> None:
        """A request that has just arrived."""
        self.index = index
        self.model = model
        self.arrived_at_s = arrived_at_s
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        self.blocks = blocks
        """Ids of the prompt's leading blocks; equal prefix, equal ids."""
        self.path = Path.COMBINED
        self.attempts = 0
        self.queued_at_s = 0.0
        self.answering: Placement | None = None
        """Its weight on the replica that makes the tokens."""
        self.prefilling: Placement | None = None
        """Its weight on the replica that computes the prompt, on the disaggregated path."""
        self.failed = False
        self.cached_tokens = 0
        """What the engine found in its prefix cache."""
        self.computed_tokens = 0
        """Tokens whose KV cache the engine holds, or that came with a KV ticket."""
        self.produced_tokens = 0
        """Output tokens, as of the last time the request joined or left the decoding batch."""
        self.joined_step = 0
        """The engine's step count when it joined the decoding batch."""
        self.epoch = 0
        """Grows when the request leaves a batch before its end; older heap entries of it are void."""
        self.first_token_at_s = -1.0
        self.ended_at_s = -1.0

    @property
    def ttft_s(self) -> float:
        """Time to first token; only of a request that has one."""
        return self.first_token_at_s - self.arrived_at_s

    @property
    def tpot_s(self) -> float:
        """Time per output token after the first; only of a finished request."""
        if self.output_tokens <= 1:
            return 0.0
        return (self.ended_at_s - self.first_token_at_s) / (self.output_tokens - 1)
