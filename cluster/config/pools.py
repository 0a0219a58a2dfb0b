"""Pools: replicas of one model in one role on one GPU type."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue, model_validator

from cluster.config.adapters import PoolAdaptersConfig
from cluster.config.base import LabelKey, LabelSelector, Name, Section
from cluster.config.performance import PerformanceOverrides
from cluster.entities.pool import Role


class ReplicaBounds(Section):
    """How many replicas a pool may have."""

    min: int = Field(default=1, ge=0, le=1000)
    """Never fewer than this."""

    max: int = Field(default=1, ge=1, le=1000)
    """Never more than this."""

    initial: int | None = Field(default=None, ge=0, le=1000)
    """How many to start with; None means `min`."""

    @model_validator(mode="after")
    def _ordered(self) -> "ReplicaBounds":
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) is above max ({self.max}); lower min or raise max")
        if self.initial is not None and not self.min <= self.initial <= self.max:
            raise ValueError(f"initial ({self.initial}) must lie between min and max")
        return self

    @property
    def start(self) -> int:
        """How many replicas a fresh cluster starts."""
        return self.min if self.initial is None else self.initial


class Resources(Section):
    """What Ray sets aside for one replica."""

    cpus: float = Field(default=1.0, ge=0)
    """CPU cores. On GPU type `cpu` the engine is also bound to that many cores."""

    gpus: float = Field(default=0.0, ge=0)
    """GPUs; vLLM's tensor_parallel_size must agree."""

    memory_bytes: int | None = Field(default=None, ge=0)
    """Heap memory; None reserves none."""

    custom: dict[str, float] = Field(default_factory=dict)
    """Ray custom resources, for example `{"accelerator_type:H100": 0.001}`."""

    node_labels: dict[LabelKey, LabelSelector] = Field(default_factory=dict)
    """Labels that a node must have, for example `{"ray.io/accelerator-type": H100}`; a value may also be
    `!H100`, `in(A100, H100)` or `!in(T4, L4)`."""


class VllmEngine(Section):
    """vLLM: the engine everywhere, the CPU included."""

    kind: Literal["vllm"] = "vllm"

    args: dict[str, JsonValue] = Field(default_factory=dict)
    """vLLM's own server arguments by their long names with underscores (`max_model_len: 4096`); vLLM checks
    them when the replica starts."""

    env: dict[str, str] = Field(default_factory=dict)
    """Environment of the engine, for vLLM's `VLLM_*` settings."""

    kv_lease_s: int = Field(default=30, ge=5, le=3600)
    """How long a prefill engine keeps the blocks of a ticket nobody has redeemed. A reader renews it while
    its request waits, so this bounds only what is lost."""

    kv_events: bool = True
    """The engine tells its replica what its prefix cache holds, so that routers believe no more of it than
    there is room for, and nothing after it was emptied."""

    start_timeout_s: float = Field(default=600.0, gt=0)
    """A replica that is not ready by then is given up with the engine's last error."""


class SimulatedEngine(Section):
    """Same HTTP surface, no model: latencies come from `cluster.performance`. For fleets that do not fit."""

    kind: Literal["simulated"] = "simulated"

    prefill_tokens_per_s: float = Field(default=20_000.0, gt=0)
    """Prompt tokens computed in a second."""

    step_base_s: float = Field(default=0.005, ge=0)
    """W: seconds of one decode step however small the batch."""

    step_per_sequence_s: float = Field(default=0.0001, ge=0)
    """H: seconds that each sequence in the batch adds to a decode step."""

    output_tokens: int = Field(default=64, ge=1, le=100_000)
    """Length of an answer when the request does not bound it."""

    start_s: float = Field(default=0.0, ge=0)
    """How long a replica takes to become ready."""

    max_model_len: int = Field(default=8192, ge=16)
    """Prompts longer than this are rejected, as vLLM does."""

    adapter_read_bytes_per_s: float = Field(default=3e8, gt=0)
    """Rate at which a LoRA adapter's files are read and converted."""

    adapter_copy_bytes_per_s: float = Field(default=7e8, gt=0)
    """Rate at which what was read is copied into a slot; the engine computes nothing meanwhile."""


_LORA_ARGS = (
    *("enable_lora", "max_loras", "max_cpu_loras", "max_lora_rank", "lora_modules"),
    "worker_extension_cls",
)
"""vLLM's arguments that follow from `PoolConfig.adapters`."""

Engine = Annotated[VllmEngine | SimulatedEngine, Field(discriminator="kind")]


_PARALLEL_ARGS = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")
"""Of vLLM: their product is how many GPUs an engine uses."""


class PoolConfig(Section):
    """One pool."""

    model: Name
    """Which of `models` its replicas serve."""

    role: Role = Role.COMBINED
    """`prefill` computes prompts and hands their KV cache over, `decode` makes tokens (and whole requests
    when that is cheaper), `combined` does both alone."""

    gpu_type: str = Field(default="cpu", min_length=1)
    """Hardware of a replica, as in the GPU catalogue (`H100`, `L4`, …); `cpu` is one of them."""

    replicas: ReplicaBounds = ReplicaBounds()
    """How many replicas."""

    engine: Engine = VllmEngine()
    """What computes the tokens."""

    resources: Resources = Resources()
    """What one replica needs."""

    gpus_per_replica: int = Field(default=1, ge=1, le=64)
    """GPUs that one replica spans (tensor parallel); speed, power, price and memory are predicted for all of
    them. `resources.gpus` is what Ray sets aside, and may be 0 where engines are simulated."""

    performance: PerformanceOverrides = PerformanceOverrides()
    """What is known of its replicas' speed and power, where the catalogue does not know better."""

    adapters: PoolAdaptersConfig | None = None
    """LoRA adapters that a replica holds; None: its engine serves the base model only."""

    max_concurrent_requests: int = Field(default=64, ge=1, le=100_000)
    """Requests that the router keeps in flight on one replica; more wait in the router."""

    drain_timeout_s: float = Field(default=120.0, ge=0)
    """How long a leaving replica may take to finish its streams before it is stopped all the same."""

    health_period_s: float = Field(default=5.0, gt=0)
    """Pause between two health checks; each generates a token."""

    health_timeout_s: float = Field(default=60.0, gt=0)
    """A health check that takes longer counts as failed. Generous, because a busy CPU engine is slow, and a
    dead one is noticed at once by other means."""

    @model_validator(mode="after")
    def _gpus_agree(self) -> "PoolConfig":
        set_aside = self.resources.gpus
        if not isinstance(self.engine, VllmEngine) or set_aside < 1:
            return self
        used = 1
        for name in _PARALLEL_ARGS:
            said = self.engine.args.get(name, 1)
            used *= said if isinstance(said, int) else 1  # what is no number is for vLLM to refuse
        if used > set_aside:
            raise ValueError(
                f"the engine needs {used} GPUs and gets {set_aside:g} (resources.gpus); raise it, or lower "
                "engine.args.tensor_parallel_size"
            )
        if used < set_aside:
            raise ValueError(
                f"the engine would use {used} of {set_aside:g} GPUs (resources.gpus); set "
                "engine.args.tensor_parallel_size"
            )
        if set_aside != self.gpus_per_replica:
            raise ValueError(
                f"gpus_per_replica is {self.gpus_per_replica} and resources.gpus {set_aside:g}: speed, power "
                f"and price would be those of {self.gpus_per_replica}; say the same"
            )
        return self

    @model_validator(mode="after")
    def _adapters_in_one_place(self) -> "PoolConfig":
        if isinstance(self.engine, VllmEngine) and self.adapters is not None:
            for name in _LORA_ARGS:
                if name in self.engine.args:
                    raise ValueError(f"engine.args.{name}: follows from adapters; remove it")
        return self
