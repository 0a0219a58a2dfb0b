"""How LoRA adapters are chosen for requests, and which of them stay in an engine's slots."""

from typing import Literal

from pydantic import Field, model_validator

from cluster.config.base import Section

PagingPolicyName = Literal["lru", "lfu", "gdsf", "ftpl", "polar", "polar_plus", "hybrid"]
AdapterRouterName = Literal["oblivious", "aware", "amortised", "top_k"]


class PagingConfig(Section):
    """The pager's policies and what they learn with."""

    policy: PagingPolicyName = "hybrid"
    """Decides which adapters stay: `hybrid` plans for what the latest requests gain and keeps a part of the
    slots for what was just asked for; `polar` plans every epoch, `polar_plus` in doubling epochs with forced
    exploration; `ftpl`, `gdsf`, `lfu` and `lru` are caches that know nothing of utility."""

    router: AdapterRouterName = "amortised"
    """Chooses the adapter of a request that leaves it open: `oblivious` by utility alone, `aware` less the
    price of a page-in, `amortised` less `rho` times that, `top_k` a resident one among the best."""

    rho: float = Field(default=1.3, ge=0, le=4)
    """How many times a page-in's price `amortised` takes off. Below 1 because what is loaded serves others,
    too: 0.3 to 0.5 suits the caches. `hybrid` loads what serves others by plan; above 1 then counts that a
    page-in for a single request displaces something."""

    top_k: int = Field(default=3, ge=1)
    """Among how many adapters `top_k` looks for a resident one."""

    alpha: float = Field(default=0.5, ge=0)
    """How many widths of its estimate are added to an adapter's expected utility: optimism that explores."""

    explore_share: float = Field(default=0.0, ge=0, lt=1)
    """Share of open requests that get any allowed adapter, so that logs can be evaluated."""

    dimension: int = Field(default=32, ge=2, le=64)
    """Length of the vector that stands for a request, its constant included."""

    regularisation: float = Field(default=1.0, gt=0)
    """Ridge: how many answers the prior utility is worth in every direction."""

    inherited: float = Field(default=0.2, ge=0, le=1)
    """Share of what is known of an adapter that its new weights inherit: the same mean, a wider doubt."""

    utility_per_s: float = Field(default=0.5, gt=0)
    """What a second of waiting is worth in utility: the exchange rate between answers and page-ins."""

    page_in_s: float = Field(default=0.2, gt=0)
    """A page-in's time before one was seen, for an adapter of `page_in_bytes`."""

    page_in_bytes: int = Field(default=10_000_000, ge=1)
    """The size of adapter that `page_in_s` is for; times of others go with their bytes."""

    epoch_requests: int = Field(default=256, ge=1)
    """Requests between two plans; the first epoch of `polar_plus`."""

    epoch_requests_max: int = Field(default=4096, ge=1)
    """Where the doubling of `polar_plus` ends: longer epochs are blind to drift."""

    window_requests: int = Field(default=512, ge=8)
    """Latest requests that a plan is made for."""

    account_decay: float = Field(default=0.995, gt=0, le=1)
    """What an adapter's account in `hybrid` is worth after another request; about 1 / (1 − this) requests
    decide whether it takes a planned one's place."""

    drift_tolerance: float = Field(default=0.05, ge=0)
    """Rise of what requests miss, as a share of the dearest page-in, that is no drift."""

    drift_threshold: float = Field(default=8.0, gt=0)
    """How much must have been missed beyond that, in page-ins, for `hybrid` to plan afresh at once."""

    count_decay: float = Field(default=0.999, gt=0, le=1)
    """What a request's count is worth after another one: `lfu` and `ftpl` forget by it."""

    forced_share: float = Field(default=0.02, ge=0, le=1)
    """Of an epoch of `polar_plus`: the largest share that forced exploration may take."""

    perturbation: float = Field(default=1.0, ge=0)
    """Scale of the noise of `ftpl`, times the root of the requests per slot."""

    @model_validator(mode="after")
    def _epochs_grow(self) -> "PagingConfig":
        if self.epoch_requests > self.epoch_requests_max:
            raise ValueError("epoch_requests is above epoch_requests_max")
        return self
