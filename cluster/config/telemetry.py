"""How energy is metered."""

from pydantic import Field

from cluster.config.base import Section


class TelemetryConfig(Section):
    """The energy meters, one set on every node."""

    enabled: bool = True
    """Off takes every joule from the power model."""

    nvml: bool = True
    """Read GPUs through NVML."""

    rapl: bool = True
    """Read CPU packages through the kernel's powercap folder, where it can be read."""

    rapl_root: str = "/sys/class/powercap"
    """That folder."""

    sample_period_s: float = Field(default=0.2, gt=0, le=10)
    """Pause between two readings of a meter that gives power rather than energy."""

    window_s: float = Field(default=1.0, gt=0, le=60)
    """Energy is shared out among the requests of windows of this length."""

    decode_token_weight: float = Field(default=4.0, gt=0)
    """What an output token counts in sharing out energy, when an uncached prompt token counts 1."""

    ledger_requests_max: int = Field(default=20_000, ge=100)
    """Requests whose energy a router keeps account of; the oldest finished go first."""

    tenants_max: int = Field(default=100, ge=1, le=10_000)
    """Tenants with a series of their own in the metrics; the others are added up as `other`."""
