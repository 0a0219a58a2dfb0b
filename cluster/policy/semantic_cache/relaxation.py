"""Lower thresholds and longer lives while the fleet is overloaded, never below what evidence allows.

The form is derived from the abstract of Category-Aware Semantic Caching (arXiv 2510.26835): it says that
thresholds and times to live adapt to load, not how.
"""

from dataclasses import dataclass, replace

from cluster.config.semantic_cache import CategoryCacheConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldLoad:
    """The load that relaxation follows: up at once, down only after it has been lower for a while."""

    level: float = 0.0
    lower_since_s: float | None = None

    def seen(self, level: float, *, now_s: float, hold_s: float) -> "HeldLoad":
        """The state after a new level."""
        if level >= self.level:
            return HeldLoad(level=level)
        if self.lower_since_s is None:
            return replace(self, lower_since_s=now_s)
        return HeldLoad(level=level) if now_s - self.lower_since_s >= hold_s else self


def relaxed_threshold(
    threshold: float, category: CategoryCacheConfig, *, level: float, floor: float
) -> float:
    """The threshold under load.

    Args:
        threshold: Without load.
        category: What the category allows.
        level: Of the load, 0 to 1.
        floor: The lowest threshold whose errors are within the category's bound.
    """
    lowest = max(category.threshold_min, floor)
    return min(threshold, max(threshold - category.relaxation_max * level, lowest))


def relaxed_ttl_s(category: CategoryCacheConfig, *, level: float) -> float:
    """The time to live under load."""
    return category.ttl_s * (1.0 + category.ttl_relaxation_max * level)
