"""The form of an entry in the catalogue of metrics."""

from dataclasses import dataclass
from typing import Literal

_UNITS = ("seconds", "joules", "watts", "bytes", "tokens", "ratio", "requests_per_second")


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric family."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """Upper bounds of a histogram's buckets, in its unit, without +Inf."""
    panel: str = ""
    """Title of its panel; empty makes one from the name."""
    everywhere: bool = False
    """Whether every router tells the same (the provisioner's plan), so that sums over routers say nothing."""

    @property
    def unit(self) -> str:
        """What it counts in, as its name says; `1` for things that are counted."""
        stem = self.name.removesuffix("_total")
        return next((unit for unit in _UNITS if stem.endswith(f"_{unit}")), "1")

    @property
    def title(self) -> str:
        """Of its panel."""
        if self.panel:
            return self.panel
        stem = self.name.removeprefix("tidemill_").removesuffix("_total")
        words = stem.removesuffix(f"_{self.unit}") if self.unit in ("seconds", "ratio") else stem
        return words.replace("_", " ").capitalize()
