"""The residency controllers by name."""

from cluster.config.paging import PagingConfig
from cluster.policy.paging.caches import Gdsf, Lfu, Lru
from cluster.policy.paging.interface import Controller


def controller(config: PagingConfig) -> Controller:
    """The configured one, for an empty catalogue."""
    match config.policy:
        case "lru":
            return Lru()
        case "lfu":
            return Lfu(config.count_decay)
        case "gdsf":
            return Gdsf()
        case _:
            return Gdsf()
