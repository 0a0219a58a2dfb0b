"""What routers, the pagers beside the engines and their coordinator say to each other, as JSON over HTTP.

Every replica that holds adapters serves these pages on its own port. Vectors and matrices travel as base64 of
little-endian numbers: learnt states are large, and digits would be larger.
"""

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cluster.entities.adapters import AdapterCatalogue
from cluster.policy.paging.contributions import Contribution
from cluster.policy.paging.interface import Numbers
from cluster.policy.paging.statistics import Estimates

COORDINATOR_ACTOR = "tidemill-adapter-coordinator"
"""Name of the coordinator among the actors."""
STATUS_PATH = "/tidemill/adapters"
"""GET: residency, tiers, what is parked, plan and counters."""
CATALOGUE_PATH = "/tidemill/adapters/catalogue"
"""PUT: an `AdapterCatalogue`, whole; answered with `{"version": N}`, what the node has now."""
PLACEMENT_PATH = "/tidemill/adapters/placement"
"""PUT: an `AdapterPlacement`; answered like the catalogue."""
OUTCOMES_PATH = "/tidemill/adapters/outcomes"
"""POST: a list of `AdapterOutcome`; answered with `{"counted": N}`, those that were news."""
LEARNED_PATH = "/tidemill/adapters/learned"
"""GET: a `LearnedState`, with an ETag; 304 if it is the one that If-None-Match names."""
DELTA_PATH = "/tidemill/adapters/delta"
"""GET `?ack=V`: a `ContributionReport` of what the node saw after its version V."""
MERGED_PATH = "/tidemill/adapters/merged"
"""PUT: `{"contributions": [...]}` of other nodes (and of this one's, if it lost them)."""

_WIRE = np.dtype("<f8")
_SMALL = np.dtype("<f4")


def pack(values: Numbers, dtype: np.dtype[Any] = _WIRE) -> str:
    """Numbers as text."""
    return base64.b64encode(np.ascontiguousarray(values, dtype=dtype).tobytes()).decode()


def unpack(text: str, *shape: int, dtype: np.dtype[Any] = _WIRE) -> Numbers:
    """The inverse of `pack`.

    Raises:
        ValueError: it is no such text, or holds another number of numbers.
    """
    return np.frombuffer(base64.b64decode(text, validate=True), dtype=dtype).astype(np.float64).reshape(shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedState:
    """What a router needs to choose adapters for one node."""

    version: str
    """The ETag, without quotes: another one for any change of what follows."""
    estimates: Estimates
    """Keys are `sha256` of adapters."""
    prices: Numbers
    """Utility that each adapter's page-in would cost now; 0 for those in a slot."""
    forced: str = ""
    """`sha256` of the adapter that the next open request should go to for the sake of learning."""

    def to_json(self) -> dict[str, Any]:
        """The body to send."""
        return {
            "version": self.version,
            "keys": list(self.estimates.keys),
            "prior": pack(self.estimates.prior),
            "theta": pack(self.estimates.theta),
            "inverse": pack(self.estimates.inverse, _SMALL),
            "prices": pack(self.prices),
            "dimension": int(self.estimates.theta.shape[1]),
            "forced": self.forced,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "LearnedState":
        """The inverse of `to_json`, inverses at single precision.

        Raises:
            ValueError, TypeError, KeyError: it is no such body.
        """
        keys, d = tuple(map(str, data["keys"])), int(data["dimension"])
        n = len(keys)
        return cls(
            version=str(data["version"]),
            estimates=Estimates(
                keys=keys,
                prior=unpack(data["prior"], n),
                theta=unpack(data["theta"], n, d),
                inverse=unpack(data["inverse"], n, d, d, dtype=_SMALL),
            ),
            prices=unpack(data["prices"], n),
            forced=str(data.get("forced", "")),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueAnswer:
    """What the coordinator answers to somebody who changes the catalogue."""

    status: int
    """Of HTTP."""
    content: dict[str, Any]
    """JSON: the adapter as it is now, or an error."""
    catalogue: AdapterCatalogue | None = None
    """As it is now; None after an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContributionReport:
    """What one node saw of adapters since a version of its own."""

    source: str
    version: int
    """What to acknowledge next time."""
    contributions: tuple[Contribution, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The body to send."""
        return {
            "source": self.source,
            "version": self.version,
            "contributions": contributions_to_json(self.contributions),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "ContributionReport":
        """The inverse of `to_json`.

        Raises:
            ValueError, TypeError, KeyError: it is no such body.
        """
        return cls(
            source=str(data["source"]),
            version=int(data["version"]),
            contributions=contributions_from_json(data["contributions"]),
        )


def contributions_to_json(contributions: Iterable[Contribution]) -> list[dict[str, Any]]:
    """Contributions as JSON, bit by bit."""
    return [
        {
            "source": found.source,
            "adapter": found.adapter,
            "version": found.version,
            "count": found.count,
            "response": pack(found.response),
            "gram": pack(found.gram),
        }
        for found in contributions
    ]


def contributions_from_json(data: Iterable[Mapping[str, Any]]) -> tuple[Contribution, ...]:
    """The inverse of `contributions_to_json`.

    Raises:
        ValueError, TypeError, KeyError: it is something else.
    """
    found = []
    for entry in data:
        response = unpack(entry["response"], -1)
        found.append(
            Contribution(
                source=str(entry["source"]),
                adapter=str(entry["adapter"]),
                version=int(entry["version"]),
                count=float(entry["count"]),
                response=response,
                gram=unpack(entry["gram"], response.size, response.size),
            )
        )
    return tuple(found)
