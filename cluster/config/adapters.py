"""LoRA adapters: which there are, how they are chosen and paged, and what a replica may hold of them."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from cluster.config.base import Name, Section
from cluster.config.paging import PagingConfig

AdapterName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?$")]
"""A name that stands behind the base model's: `BASE:NAME`."""

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class AdapterConfig(Section):
    """One LoRA adapter."""

    base_model: Name
    """Which of `models` it adapts; clients ask for `BASE:NAME`."""

    source: str = Field(min_length=1)
    """A local folder with `adapter_config.json` and `adapter_model.safetensors`, `http(s)://…` of a `.tar.gz`
    or `.zip` of one, `s3://BUCKET/PREFIX`, a Hugging Face id, or `recipe:NAME` (trained on this machine)."""

    sha256: Sha256 | None = None
    """What `sha256sum adapter_config.json adapter_model.safetensors | sha256sum` must print for its files;
    None takes them as they come."""

    rank_max: int | None = Field(default=None, ge=1, le=512)
    """Its rank, or more, if known: a pool with fewer ranks per slot is refused at once and not when the
    adapter is first asked for."""

    pinned: bool = False
    """Whether it stays in a slot always."""

    prior_utility: float = Field(default=0.5, ge=0, le=1)
    """Expected utility of its answers before any was judged."""

    tags: dict[str, str] = Field(default_factory=dict)
    """For people and for rules outside; shown where adapters are listed."""


class S3Config(Section):
    """Where `s3://` sources are.

    Keys come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN) in the environment;
    without them requests are not signed.
    """

    endpoint_url: str | None = None
    """Of an S3-compatible store such as MinIO; None means Amazon's of the region."""

    region: str = "us-east-1"
    """Named in signatures."""


class AdapterFleetConfig(Section):
    """Adapters across all nodes: what routers learn of them, and what the coordinator does."""

    learned_period_s: float = Field(default=1.0, gt=0)
    """How often a router asks every node what it has learnt; requests never wait for it."""

    round_period_s: float = Field(default=2.0, gt=0)
    """How often the coordinator visits every node: catalogue, what it saw, what others saw, placement."""

    node_timeout_s: float = Field(default=5.0, gt=0)
    """A node that has not answered by then is visited again in the next round."""

    admin_timeout_s: float = Field(default=330.0, gt=0)
    """Adding an adapter is given up by the router after so long; it fetches the files, see
    `adapters.fetch_timeout_s`."""

    adapters_max: int = Field(default=1_000, ge=1)
    """Adapters in the catalogue; one more is refused."""

    contributions_max: int = Field(default=5_000, ge=1)
    """What nodes saw of adapters, one entry for each node and adapter, that the coordinator keeps; beyond it,
    those nodes are forgotten that have told nothing for the longest time."""

    load_half_life_s: float = Field(default=120.0, gt=0)
    """How fast the coordinator forgets what adapters were asked for, when it places copies."""

    candidates_logged_max: int = Field(default=16, ge=1)
    """Adapters that a decision record tells of, best first, where one was chosen among many."""


class AdaptersConfig(Section):
    """LoRA adapters. None in the catalogue does not mean none: more can be added while the cluster runs."""

    catalogue: dict[AdapterName, AdapterConfig] = Field(default_factory=dict)
    """Adapters by name."""

    paging: PagingConfig = PagingConfig()
    """How adapters are chosen for requests, and which stay in slots."""

    fleet: AdapterFleetConfig = AdapterFleetConfig()
    """How routers and the coordinator keep up with the nodes."""

    s3: S3Config = S3Config()
    """Where `s3://` sources are."""

    fetch_timeout_s: float = Field(default=300.0, gt=0)
    """Fetching one adapter from its source is given up after so long."""

    files_bytes_max: int = Field(default=8 * 1024**3, ge=1)
    """Largest adapter that is fetched, unpacked."""


class PoolAdaptersConfig(Section):
    """What one replica of a pool holds of adapters."""

    slots: int = Field(default=4, ge=1, le=256)
    """Adapters in the engine at a time (vLLM's max_loras), the reserve included."""

    reserve_slots: int = Field(default=1, ge=1)
    """Slots that neither plans nor pins take: an engine whose slots are all pinned stops for good at the next
    other adapter."""

    rank_max: Literal[1, 8, 16, 32, 64, 128, 256, 320, 512] = 16
    """Largest rank of an adapter (vLLM's max_lora_rank): every slot is as large."""

    engine_bytes: int | None = Field(default=None, ge=1)
    """What the weights of all adapters in slots may take together; None: slots alone limit."""

    host_bytes: int = Field(default=256 * 1024**2, ge=0)
    """Memory of the engine's process for adapters that were read ahead of need or left a slot: from there a
    load only copies, and stops running streams for a fraction of the time. 0 keeps none."""

    disk_bytes: int = Field(default=4 * 1024**3, ge=1)
    """Fetched adapters that are kept on the node's disk; the longest unused leave first."""

    stall_s_per_s: float = Field(default=0.02, gt=0, le=1)
    """Seconds per second for which loads may stop running streams. A load that somebody waits for may borrow
    up to `stall_debt_s`."""

    stall_debt_s: float = Field(default=2.0, gt=0)
    """How far ahead of the budget waited-for loads may run."""

    running_max: int | None = Field(default=None, ge=1)
    """Requests with adapters that are let into the engine at a time: those that wait inside hold their
    adapter's slot and compute nothing. None: as many as the engine runs (vLLM's max_num_seqs)."""

    parked_max: int = Field(default=256, ge=1)
    """Requests that wait outside the engine; one more gets 503."""

    park_timeout_s: float = Field(default=60.0, gt=0)
    """A request that is not let into the engine by then gets 503."""

    drain_s: float = Field(default=2.0, ge=0)
    """After waiting for so long for a slot a request's adapter gets the one whose running requests end first:
    others of that adapter are not let in any more."""

    degrade: Literal["never", "base", "resident"] = "never"
    """What becomes of a request that left its adapter open and waits longer than `degrade_after_s`: answered
    by the base model, or by the best adapter in a slot."""

    degrade_after_s: float = Field(default=5.0, gt=0)
    """See `degrade`."""

    @model_validator(mode="after")
    def _reserve_fits(self) -> "PoolAdaptersConfig":
        if self.reserve_slots > self.slots:
            raise ValueError(f"reserve_slots ({self.reserve_slots}) is above slots ({self.slots})")
        return self

    @property
    def pins_max(self) -> int:
        """How many adapters may be pinned."""
        return self.slots - self.reserve_slots
