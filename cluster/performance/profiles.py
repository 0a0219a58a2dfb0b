"""The performance of a pool's replicas, from the best that is known of them.

What the configuration says counts most, then what a simulated engine is told to do, then what data sheets and
fits give; what nobody knows is assumed, and says so. Measurements of the running replicas refit it
(`estimator`).
"""

import contextlib
import difflib
from dataclasses import replace

from cluster.config.models import ModelConfig
from cluster.config.performance import PerformanceOverrides
from cluster.config.pools import PoolConfig, SimulatedEngine, VllmEngine
from cluster.entities.performance import PowerCurve, Provenance, ReplicaPerformance
from cluster.performance.architectures import ARCHITECTURES, model_spec
from cluster.performance.hardware import GpuSpec, gpu_spec
from cluster.performance.roofline import derived, power_curve

_ASSUMED_MODELS = ("llama-3.1-8b", "qwen3-0.6b")
"""What a model that is not known is taken for: the first that fits on the GPU."""
_ENGINE_FIELDS = {
    "max_num_batched_tokens": "batch_tokens_max",
    "max_num_seqs": "sequences_max",
    "block_size": "kv_block_tokens",
}
"""vLLM's arguments that say what the profile would guess."""

_CPU = ReplicaPerformance(
    step_base_s=0.03,
    step_per_sequence_s=0.002,
    step_per_context_token_s=0.0,
    prefill_token_s=0.0005,
    batch_tokens_max=2048,
    sequences_max=256,
    kv_tokens_max=65_536,
    kv_block_tokens=128,
    kv_token_bytes=23_040.0,
    transfer_bytes_per_s=1e9,
    transfer_latency_s=0.01,
    start_s=60.0,
    start_j=1_800.0,
    power=PowerCurve(idle_w=10.0, range_w=50.0, steepness=1.0, midpoint_log2=1.0, prefill_w=60.0),
    price_usd_per_h=0.1,
    gpus=1,
    provenance=Provenance.ASSUMED,
    sources=("assumed: a small model on a few CPU cores",),
)


def pool_performance(pool: PoolConfig, model: ModelConfig) -> ReplicaPerformance:
    """What is known of a pool's replicas before any of them has reported.

    Args:
        pool: GPU type, engine, overrides.
        model: what it serves.

    Raises:
        ValueError: the model does not fit on the pool's GPUs, or its architecture is not in the catalogue.
    """
    found = _catalogue(pool, model)
    if isinstance(pool.engine, SimulatedEngine):
        found = _simulated(found, pool.engine, pool)
    elif isinstance(pool.engine, VllmEngine):
        found = _with_arguments(found, pool.engine)
    return _overridden(found, pool.performance)


def _catalogue(pool: PoolConfig, model: ModelConfig) -> ReplicaPerformance:
    gpu = gpu_spec(pool.gpu_type)
    if model.architecture is not None and model_spec(model.architecture) is None:
        raise ValueError(f"architecture {_unknown(model.architecture)}")
    if gpu is None:
        return replace(_CPU, gpus=pool.gpus_per_replica)
    if isinstance(pool.engine, SimulatedEngine) and model.architecture is None:
        # No model, no weights: only the GPU's power and price are of interest.
        return replace(
            _CPU,
            power=power_curve(gpu, pool.gpus_per_replica),
            price_usd_per_h=pool.gpus_per_replica * gpu.usd_per_h,
            gpus=pool.gpus_per_replica,
            sources=(f"power and price: catalogue of {gpu.name}",),
        )
    if model.architecture is not None:
        return _derived(gpu, model.architecture, pool.gpus_per_replica)
    name, found = _first_that_fits(gpu, pool.gpus_per_replica)
    note = f"assumed: a model like {name}, because models.*.architecture says nothing"
    return replace(found, provenance=Provenance.ASSUMED, sources=(*found.sources, note))


def _derived(gpu: GpuSpec, architecture: str, gpus: int) -> ReplicaPerformance:
    spec = model_spec(architecture)
    assert spec is not None  # noqa: S101 - checked before, and the assumed ones are in the catalogue
    return derived(gpu, spec, gpus)


def _first_that_fits(gpu: GpuSpec, gpus: int) -> tuple[str, ReplicaPerformance]:
    *larger, smallest = _ASSUMED_MODELS
    for name in larger:
        with contextlib.suppress(ValueError):
            return name, _derived(gpu, name, gpus)
    return smallest, _derived(gpu, smallest, gpus)


def _unknown(architecture: str) -> str:
    close = difflib.get_close_matches(architecture, ARCHITECTURES, n=1)
    known = f"; did you mean {close[0]!r}?" if close else f", which has: {', '.join(sorted(ARCHITECTURES))}"
    return f"{architecture!r} is not in the catalogue{known}"


def _simulated(found: ReplicaPerformance, engine: SimulatedEngine, pool: PoolConfig) -> ReplicaPerformance:
    start_s = engine.start_s if engine.start_s > 0 else 5.0
    return replace(
        found,
        step_base_s=engine.step_base_s,
        step_per_sequence_s=engine.step_per_sequence_s,
        step_per_context_token_s=0.0,
        prefill_token_s=1.0 / engine.prefill_tokens_per_s,
        sequences_max=pool.max_concurrent_requests,
        kv_tokens_max=max(found.kv_tokens_max, engine.max_model_len * pool.max_concurrent_requests),
        start_s=start_s,
        start_j=start_s * found.power.idle_w,
        provenance=Provenance.CONFIGURED,
        sources=("speed: what the simulated engine is told to do", *found.sources),
    )


def _with_arguments(found: ReplicaPerformance, engine: VllmEngine) -> ReplicaPerformance:
    said = {
        field: value
        for argument, field in _ENGINE_FIELDS.items()
        if isinstance(value := engine.args.get(argument), int) and not isinstance(value, bool)
    }
    block_tokens = said.get("kv_block_tokens", found.kv_block_tokens)
    return replace(
        found,
        batch_tokens_max=said.get("batch_tokens_max", found.batch_tokens_max),
        sequences_max=said.get("sequences_max", found.sequences_max),
        kv_block_tokens=block_tokens,
        kv_tokens_max=max(1, found.kv_tokens_max // block_tokens) * block_tokens,
    )


def _overridden(found: ReplicaPerformance, overrides: PerformanceOverrides) -> ReplicaPerformance:
    said = {
        name: value for name, value in overrides.model_dump(exclude={"power"}).items() if value is not None
    }
    watts = {name: value for name, value in overrides.power.model_dump().items() if value is not None}
    if watts:
        said["power"] = replace(found.power, **watts)
    if not said:
        return found
    if "start_j" not in said and ("start_s" in said or watts):
        said["start_j"] = said.get("start_s", found.start_s) * said.get("power", found.power).idle_w
    return replace(
        found,
        **said,
        provenance=Provenance.CONFIGURED,
        sources=(f"configured: {', '.join(sorted(said))}", *found.sources),
    )
