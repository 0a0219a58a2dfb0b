"""What users of a model are promised."""

from pydantic import Field

from cluster.config.base import Section


class SloConfig(Section):
    """Service level objectives of one model. A request meets them when it meets every one."""

    ttft_s: float = Field(default=2.0, gt=0)
    """Time to first token, from arrival at the router."""

    tpot_s: float = Field(default=0.2, gt=0)
    """Time per output token after the first."""

    attainment: float = Field(default=0.95, gt=0, lt=1)
    """Share of requests that are to meet both."""
