"""Speed, memory and power of a model on GPUs, from data sheets and efficiencies fitted on measurements.

A decode step reads all weights once (bandwidth), multiplies them with every sequence's token and reads every
sequence's KV cache; a prompt token is limited by computation. The efficiencies are fitted, by
`load_tests/performance_fit.py`, on 93 measured operating points of 8 dense models from 8B to 70B on H100
(ML.ENERGY leaderboard v3, prompts assumed to have 300 tokens): mean error of the time per output token 5 %,
of a model left out of the fit 6 %; of power 6 % and 7 %. On B200 (83 points) the same form errs by 18 % and
19 %, of power by 25 % and 28 %: its points do not lie on one curve (steps of small models take 5 ms in one
task and 30 ms in another). Other GPU types take H100's efficiencies: older engines measured on A100 say more
about the engines than about the GPU. Idle power of H100 and H200 is measured with
`operators.telemetry.characterise`, which also met the base of a step within 3 % on both.
"""

from dataclasses import dataclass, replace

from cluster.entities.performance import PowerCurve, Provenance, ReplicaPerformance
from cluster.performance.architectures import ModelSpec
from cluster.performance.hardware import GpuSpec

_GPU_MEMORY_SHARE = 0.9
"""vLLM's gpu_memory_utilization."""
_WORKSPACE_BYTES = 2e9
"""Activations, CUDA graphs and communication buffers of one GPU: an assumption."""
_BLOCK_TOKENS = 16
_PREFILL_EFFICIENCY = 0.55
"""Of dense tensor FLOP/s on one GPU. Vidur's measured matrix products reach 0.65 (A100 and H100, 2,048
tokens); whole prompts on 4 GPUs reach 0.33 in Splitwise's measurements. This lies between, and falls with the
GPUs."""
_PREFILL_SCALING = -0.25
_LINK_EFFICIENCY = 0.39
"""Vidur's measured send/recv of 64 MiB over NVLink: 348 GB/s of 900 on H100, 228 of 600 on A100."""
_NETWORK_BYTES_PER_S = 12.5e9
"""Between GPUs without NVLink: a 100 Gbit/s network."""
_TRANSFER_LATENCY_S = 0.005
_PREFILL_POWER_SHARE = 0.95
"""Splitwise measured peaks at the power limit for prompts of 512 tokens and more."""
_LOAD_BYTES_PER_S = 2e9
_START_S = 40.0
"""Process, CUDA graphs, warm-up: an assumption, to be overridden by what is measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Efficiency:
    """What a GPU reaches of its data sheet. One fit for each GPU type with measurements."""

    bandwidth: float
    layer_s: float
    """Of a step, for each layer, whatever the batch: kernel launches."""
    sequence_s: float
    """Of a step, for each sequence: sampling and scheduling."""
    decode_flops: float
    idle_share: float
    """Of the power limit, with a model loaded and nothing to do."""
    idle_source: str
    power_range: float
    """Of the power limit, above idle."""
    power_steepness: float
    power_midpoint: float
    """log2 of the batch on one GPU."""
    power_midpoint_per_log2_gpus: float
    measured: bool


_OWN = "measured with operators.telemetry.characterise"
_H100 = Efficiency(
    bandwidth=0.876,
    layer_s=5.25e-5,
    sequence_s=3.29e-5,
    decode_flops=0.637,
    idle_share=0.18,
    idle_source=_OWN,
    power_range=0.82,
    power_steepness=0.289,
    power_midpoint=1.69,
    power_midpoint_per_log2_gpus=0.75,
    measured=True,
)
_B200 = Efficiency(
    bandwidth=0.782,
    layer_s=6.03e-5,
    sequence_s=3.98e-5,
    decode_flops=0.95,
    idle_share=0.25,
    idle_source="measured by ML.ENERGY (251 W of 1,000)",
    power_range=0.75,
    power_steepness=0.248,
    power_midpoint=3.97,
    power_midpoint_per_log2_gpus=0.0,
    measured=True,
)
EFFICIENCIES = {"H100-SXM5-80GB": _H100, "B200-SXM-180GB": _B200}
"""Fits of GPU types with measurements."""
_H200 = replace(_H100, idle_share=0.17, power_range=0.83, measured=False)
_OTHER = replace(
    _H100, idle_share=0.25, idle_source="assumed: B200's share", power_range=0.75, measured=False
)
"""Idle shares of 17 % to 25 % were measured; where none was, the most is assumed, so that keeping a replica
awake is not taken for cheaper than it is."""


def efficiency_of(gpu: GpuSpec) -> Efficiency:
    """The fit of a GPU type, or H100's in its place with the idle power that is known of this one."""
    return _H200 if gpu.name == "H200-SXM-141GB" else EFFICIENCIES.get(gpu.name, _OTHER)


def decode_step_s(  # noqa: PLR0917 - the terms of one formula
    gpu: GpuSpec, model: ModelSpec, gpus: int, sequences: float, context_tokens: float, fit: Efficiency
) -> float:
    """Seconds of a decode step: what the fit is made with."""
    base_s, sequence_s, context_s = _step_terms(gpu, model, gpus, fit)
    return base_s + sequence_s * sequences + context_s * sequences * context_tokens


def _step_terms(gpu: GpuSpec, model: ModelSpec, gpus: int, fit: Efficiency) -> tuple[float, float, float]:
    bytes_per_s = gpus * fit.bandwidth * gpu.bandwidth_bytes_per_s
    read = model.weights_bytes if model.is_dense else model.parameters_active * model.weight_bytes
    base_s = read / bytes_per_s + model.layers * fit.layer_s
    flops_s = 2.0 * model.parameters_active / (gpus * fit.decode_flops * gpu.fp16_flops)
    sequence_s = flops_s + fit.sequence_s
    if not model.is_dense:
        # Every sequence brings experts of its own until all are read: spread over a batch of 64.
        idle_bytes = (model.parameters - model.parameters_active) * model.weight_bytes
        sequence_s += idle_bytes / bytes_per_s / 64.0
    return base_s, sequence_s, model.kv_token_bytes / bytes_per_s


def prefill_token_s(gpu: GpuSpec, model: ModelSpec, gpus: int) -> float:
    """Seconds that a prompt token takes on a number of GPUs."""
    efficiency = _PREFILL_EFFICIENCY * float(gpus**_PREFILL_SCALING)
    return 2.0 * model.parameters_active / (gpus * efficiency * gpu.fp16_flops)


def power_curve(gpu: GpuSpec, gpus: int, fit: Efficiency | None = None) -> PowerCurve:
    """Power of a replica on a number of GPUs, all together; `fit` stands in for the GPU type's own."""
    fit = fit or efficiency_of(gpu)
    limit_w = gpus * gpu.power_limit_w
    return PowerCurve(
        idle_w=limit_w * fit.idle_share,
        range_w=limit_w * fit.power_range,
        steepness=fit.power_steepness,
        midpoint_log2=fit.power_midpoint + fit.power_midpoint_per_log2_gpus * (gpus.bit_length() - 1),
        prefill_w=limit_w * _PREFILL_POWER_SHARE,
    )


def kv_tokens(gpu: GpuSpec, model: ModelSpec, gpus: int) -> int:
    """Tokens that the KV cache holds, in whole blocks; the cache is split over the GPUs like the weights.

    Raises:
        ValueError: the weights leave no room for the KV cache of even one block.
    """
    room = gpus * (_GPU_MEMORY_SHARE * gpu.memory_bytes - _WORKSPACE_BYTES) - model.weights_bytes
    blocks = int(room / (model.kv_token_bytes * _BLOCK_TOKENS))
    if blocks < 1:
        raise ValueError(
            f"{model.name} needs {model.weights_bytes / 1e9:.0f} GB for its weights and does not fit on "
            f"{gpus} x {gpu.name} ({gpus * gpu.memory_bytes / 1e9:.0f} GB)"
        )
    return blocks * _BLOCK_TOKENS


def derived(gpu: GpuSpec, model: ModelSpec, gpus: int) -> ReplicaPerformance:
    """A replica of a model on a number of GPUs.

    Raises:
        ValueError: the model does not fit.
    """
    fit = efficiency_of(gpu)
    base_s, sequence_s, context_s = _step_terms(gpu, model, gpus, fit)
    large = gpu.memory_bytes >= 70e9 and not gpu.name.startswith("A100")
    linked = gpu.link_bytes_per_s >= 200e9
    power = power_curve(gpu, gpus)
    fitted_on = gpu.name if fit.measured else "H100"
    start_s = _START_S + model.weights_bytes / _LOAD_BYTES_PER_S
    return ReplicaPerformance(
        step_base_s=base_s,
        step_per_sequence_s=sequence_s,
        step_per_context_token_s=context_s,
        prefill_token_s=prefill_token_s(gpu, model, gpus),
        # vLLM's own defaults for its server, by size of the GPU.
        batch_tokens_max=8192 if large else 2048,
        sequences_max=1024 if large else 256,
        kv_tokens_max=kv_tokens(gpu, model, gpus),
        kv_block_tokens=_BLOCK_TOKENS,
        kv_token_bytes=model.kv_token_bytes,
        transfer_bytes_per_s=gpu.link_bytes_per_s * _LINK_EFFICIENCY if linked else _NETWORK_BYTES_PER_S,
        transfer_latency_s=_TRANSFER_LATENCY_S,
        start_s=start_s,
        start_j=start_s * power.idle_w,
        power=power,
        price_usd_per_h=gpus * gpu.usd_per_h,
        gpus=gpus,
        provenance=Provenance.FITTED if fit.measured else Provenance.DERIVED,
        sources=(
            f"speed and power: data sheet of {gpu.name}; efficiencies: ML.ENERGY leaderboard v3, {fitted_on}",
            "prefill: Vidur's matrix products and Splitwise's prompts (A100, H100)",
            f"idle power: {fit.idle_share:.0%} of the limit, {fit.idle_source}",
            "start: assumed 40 s and 2 GB/s of weights",
        ),
    )
