"""What one stage of the data path sends another: plain data with a JSON form.

The stages run in processes of their own and talk HTTP, so that tokens never pass through Ray's object
store (docs/adr/0003). Headers carry what the receiver needs before it reads a body.
"""

import base64
import json
import struct
from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import orjson

from cluster.entities.adapters import AdapterCatalogue
from cluster.entities.energy import EnergyReading, Meter
from cluster.entities.fleet import (
    ClassDemand,
    ClassForecast,
    FleetPlan,
    ModelBacklog,
    PoolObservation,
)
from cluster.entities.pool import PoolName, ReplicaId, ReplicaReport
from cluster.entities.reasons import Reason

SEMANTIC_CACHE = "semantic_cache"
"""Name of the cache among the services in the directory."""
ROUTER = "router"
"""Name of the routers among the services: where their metrics are."""
CACHE_OUTCOME = "x-tidemill-outcome"
"""Response header of a cache look-up: `hit` or `miss`."""
CACHE_LEASE = "x-tidemill-lease"
"""Header of a miss whose asker computes the answer for everybody who asks the same; sent back with it."""
CACHE_AGE = "x-tidemill-age"
"""Header of a hit: seconds since the answer was stored."""
CACHE_TIER = "x-tidemill-tier"
"""Header of a hit: `exact` or `semantic`."""
CACHE_SIMILARITY = "x-tidemill-similarity"
"""Header of a hit of the semantic tier: cosine of what was asked and what was answered."""
CACHE_ENTRY = "x-tidemill-entry"
"""Header of a hit of the semantic tier: the entry's id, to look at it or to purge it."""
CACHE_ENERGY = "x-tidemill-energy-j"
CACHE_COST = "x-tidemill-cost-usd"
"""Header of an answer to store: what computing it took."""
CACHE_TEXT_SIGNALS = "x-tidemill-text-signals"
"""Header of a miss whose asker wanted them: `TextSignals`. Not there if they did not come in time."""
CACHE_TENANT = "x-tidemill-tenant"
"""Header of an answer to store: the partition it belongs to."""
CACHE_MODEL = "x-tidemill-model"
"""Header of an answer to store: the model that gave it."""
CACHE_KEY = "x-tidemill-key"
"""Header of an answer to store: the key of the look-up."""
CACHE_ASKER = "x-tidemill-router"
"""Header of a request to the cache: the router that asks. Leases of one that falls silent are over."""
ADAPTER_CONTEXT = "x-tidemill-adapter-x"
"""Header of a request to a replica: the vector that stands for it, from which adapters' utility is learnt
(`vector_to_header`). Without it the request is only a demand for its adapter."""
ADAPTER_OPEN = "x-tidemill-adapter-open"
"""Header of a request to a replica whose adapter was chosen for it (`1`): another one would do, too."""
ADAPTER_EXPLORED = "x-tidemill-adapter-explored"
"""Header of a request to a replica whose adapter was chosen so that something is learnt (`1`)."""
ADAPTER_SERVED = "x-tidemill-adapter"
"""Header of a replica's answer: the adapter that gave it, by name; empty for the base model."""
ADAPTER_TIER = "x-tidemill-adapter-tier"
"""Header of a replica's answer: where the adapter lay when the request came (`AdapterTier`)."""
ADAPTER_WAIT = "x-tidemill-adapter-wait-s"
"""Header of a replica's answer: how long the request was parked until its adapter was in the engine."""
ADAPTER_REFUSED = "x-tidemill-adapter-refused"
"""Header of a replica's error: why the adapter cannot be had there now. The replica itself is well, and
another one may have the adapter."""
REQUEST_ID = "x-request-id"
"""Sent to engines; vLLM makes it part of its request id."""
TOKENS_ASKED = "x-tidemill-tokens"
"""Header of a request to an engine: `1` asks for `ToldTokens` between the events of its stream."""

_EMBEDDING_STEPS = 10_000
_TOKENS_TOLD = b": tidemill-tokens "


def vector_to_header(x: Sequence[float]) -> str:
    """A vector as a header value: base64 of little-endian 32-bit floats."""
    return base64.b64encode(struct.pack(f"<{len(x)}f", *x)).decode()


def vector_from_header(value: str) -> tuple[float, ...]:
    """The inverse of `vector_to_header`.

    Raises:
        ValueError: it is no such value.
    """
    try:
        raw = base64.b64decode(value, validate=True)
        return struct.unpack(f"<{len(raw) // 4}f", raw)
    except (struct.error, ValueError) as error:
        raise ValueError(f"not a vector: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheQuery:
    """A look-up in the semantic cache. JSON body of `POST /lookup`."""

    tenant: str
    """Partition; answers never cross it."""
    model: str
    key: str
    """SHA-256 over everything that determines the answer, streaming form included (hex)."""
    text: str = ""
    """Last user text, for the semantic tier and for text signals; empty when neither is wanted."""
    text_signals_wait_s: float = 0.0
    """How long a miss may wait for the text's signals, which then come with it; 0 asks for none."""
    scope: str = ""
    """SHA-256 over everything but the last user text (hex); empty if a near match would not do."""
    load: float = 0.0
    """0 to 1: how overloaded the asker's fleet is."""
    single_flight: bool = True
    """Whether to wait for an identical request that is being computed."""
    waits: bool = True
    """False to be told that there is one, in place of waiting: whoever then asks again knows what for."""

    def to_json(self) -> dict[str, Any]:
        """The body to send."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSignals:
    """What the encoder's models read from a prompt's last user text. A header value, in JSON."""

    embedding: tuple[float, ...]
    """Unit length, in steps of 1e-4, so that it is short in logs."""
    category: str
    category_confidence: float
    language: str

    def to_header(self) -> str:
        """The value to send: the embedding as base64 of 16-bit integers, the rest as it is."""
        steps = array("h", (round(value * _EMBEDDING_STEPS) for value in self.embedding))
        fields = asdict(self) | {"embedding": base64.b64encode(steps.tobytes()).decode()}
        return json.dumps(fields, separators=(",", ":"))

    @classmethod
    def from_header(cls, value: str) -> "TextSignals":
        """The inverse of `to_header`.

        Raises:
            ValueError, TypeError, KeyError: it is no such value.
        """
        fields = json.loads(value)
        steps = array("h", base64.b64decode(fields.pop("embedding"), validate=True))
        return cls(embedding=tuple(step / _EMBEDDING_STEPS for step in steps), **fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceReport:
    """Where a replica of a service other than an engine listens (the semantic cache)."""

    service: str
    replica_id: str
    url: str
    observed_at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DemandReport:
    """What one router has seen arrive and finish since it started.

    Sums since the start, not since the last report: a message that is lost or comes twice changes nothing.
    """

    router_id: str
    classes: tuple[ClassDemand, ...] = ()
    backlog: tuple[ModelBacklog, ...] = ()
    """What waits there now."""
    adapters: dict[str, int] = field(default_factory=dict)
    """Requests for each adapter, named or chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaLoad:
    """What routers have in flight on one replica."""

    requests: int = 0
    waiting: int = 0
    """Those without a first token."""
    pending_prefill_tokens: int = 0
    decode_tokens: int = 0

    def __add__(self, other: "ReplicaLoad") -> "ReplicaLoad":
        """Both together."""
        return ReplicaLoad(
            requests=self.requests + other.requests,
            waiting=self.waiting + other.waiting,
            pending_prefill_tokens=self.pending_prefill_tokens + other.pending_prefill_tokens,
            decode_tokens=self.decode_tokens + other.decode_tokens,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterShare:
    """What one router tells the others, and what it hears of all the others together."""

    loads: dict[ReplicaId, ReplicaLoad] = field(default_factory=dict)
    computed: tuple[tuple[ReplicaId, tuple[int, ...]], ...] = ()
    """Block hashes of prompts that replicas have computed since the last time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeEnergy:
    """What the meters of one node say."""

    node_id: str
    """Ray's."""
    readings: tuple[EnergyReading, ...] = ()
    errors: tuple[tuple[str, str, str], ...] = ()
    """(meter, device, why) of what cannot be read now."""
    gpu_uuids: dict[str, str] = field(default_factory=dict)
    """By index, as Ray names GPUs."""
    observed_at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaEnergy:
    """What one replica has used since it was first seen."""

    replica_id: ReplicaId
    pool: PoolName
    model: str
    meter: Meter
    energy_j: float
    """Cumulative."""
    idle_w: float
    """What it draws with nothing to do: energy above that is caused by requests."""
    observed_at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedPlan:
    """The provisioner's last decision, for routers and for people."""

    decided_at_s: float
    """Unix time."""
    policy: str
    plan: FleetPlan
    pools: tuple[PoolObservation, ...]
    """What it saw."""
    forecast: tuple[ClassForecast, ...] = ()
    reasons: tuple[Reason, ...] = ()
    energy: tuple[ReplicaEnergy, ...] = ()
    meter_errors: tuple[tuple[str, str, str], ...] = ()
    """(meter, node and device, why)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterNode:
    """How the coordinator's last visit of one replica with adapters went."""

    replica_id: ReplicaId
    catalogue_version: int = -1
    """What the replica said that it has; -1 if it did not answer."""
    error: str = ""
    """Why it did not; empty if it did."""
    placed: tuple[str, ...] = ()
    """Names of the adapters that it should have near, most valuable first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedAdapters:
    """What the coordinator of adapters says, for routers and for people."""

    at_s: float
    """Unix time of its last round."""
    catalogue: AdapterCatalogue
    nodes: tuple[AdapterNode, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetOverview:
    """Everything the directory knows that the provisioner decides from."""

    replicas: tuple[ReplicaReport, ...]
    demand: tuple[DemandReport, ...]
    energy: tuple[NodeEnergy, ...] = ()
    ages_s: dict[ReplicaId, float] = field(default_factory=dict)
    """How long ago each replica's report came, by the directory's clock: those of the nodes may be wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetState:
    """What the directory tells everybody who watches it."""

    version: int
    """Grows with every change that routing must know of (joined, left, draining)."""
    replicas: tuple[ReplicaReport, ...] = ()
    services: tuple[ServiceReport, ...] = ()
    plan: PublishedPlan | None = None
    adapters: PublishedAdapters | None = None
    """None until the coordinator has said something since the directory started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToldTokens:
    """What an engine has made since it said so last, for surfaces whose events tell no token ids.

    It stands in the stream before the events that it is about, as a comment, which no client looks at.
    """

    prompt: tuple[int, ...] = ()
    """Ids of the prompt; told once."""
    made: tuple[int, ...] = ()
    """Ids of the answer's tokens."""
    chars: int = 0
    """Characters that the engine let go of."""
    finish: str | None = None
    """Why the answer ended, in OpenAI's words; None while it goes on."""
    stop: str | int | None = None
    """The stop string or token that it ended at."""

    def comment(self) -> bytes:
        """As it stands in the stream."""
        # Written for every token.
        fields: dict[str, Any] = {"made": self.made, "chars": self.chars}
        if self.prompt:
            fields["prompt"] = self.prompt
        if self.finish is not None:
            fields |= {"finish": self.finish, "stop": self.stop}
        return _TOKENS_TOLD + orjson.dumps(fields) + b"\n\n"

    @classmethod
    def of(cls, event: bytes) -> "ToldTokens | None":
        """Read it from a part of a stream; None if that is an event.

        Raises:
            ValueError: it is none that an engine writes.
        """
        if not event.startswith(_TOKENS_TOLD):
            return None
        try:
            fields: dict[str, Any] = orjson.loads(event[len(_TOKENS_TOLD) :])
            prompt, made = tuple(fields.pop("prompt", ())), tuple(fields.pop("made", ()))
            return cls(prompt=prompt, made=made, **fields)
        except (TypeError, AttributeError) as error:
            raise ValueError(f"not what an engine tells of tokens: {error}") from error
