"""The residency controllers by name."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from cluster.config.paging import PagingConfig, PagingPolicyName
from cluster.policy.paging.caches import Gdsf, Lfu, Lru
from cluster.policy.paging.hybrid import Hybrid
from cluster.policy.paging.interface import Controller
from cluster.policy.paging.planners import Ftpl, Polar, PolarPlus

_BUILD: Mapping[PagingPolicyName, Callable[[PagingConfig], Controller]] = MappingProxyType(
    {
        "lru": lambda _config: Lru(),
        "lfu": lambda config: Lfu(config.count_decay),
        "gdsf": lambda _config: Gdsf(),
        "ftpl": Ftpl,
        "polar": Polar,
        "polar_plus": PolarPlus,
        "hybrid": Hybrid,
    }
)


def controller(config: PagingConfig) -> Controller:
    """The configured one, for an empty catalogue."""
    return _BUILD[config.policy](config)
