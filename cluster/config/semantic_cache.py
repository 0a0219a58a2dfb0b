"""The semantic-cache deployment: whole answers, kept for requests that ask the same again."""

from typing import Literal, Self

from pydantic import Field, model_validator

from cluster.config.base import LabelKey, LabelSelector, Section


class ExactTierConfig(Section):
    """Answers to byte-for-byte equal requests."""

    entries_max: int = Field(default=10_000, ge=1)
    """Answers kept; the least recently used go first."""

    bytes_max: int = Field(default=256 * 1024 * 1024, ge=1024)
    """Bytes of answers kept in all."""

    entry_bytes_max: int = Field(default=1024 * 1024, ge=1024)
    """A larger answer is not stored."""

    tenant_share_max: float = Field(default=0.5, gt=0, le=1)
    """Fraction of the bytes that one tenant may hold."""

    ttl_s: float = Field(default=3600.0, gt=0)
    """Age at which an answer is forgotten. A hit does not renew it."""

    single_flight_wait_s: float = Field(default=120.0, ge=0)
    """How long a request waits for an identical one that is being computed; 0 turns single-flight off."""

    single_flight_waiters_max: int = Field(default=1024, ge=1)
    """Requests that may wait in all; one more computes for itself."""

    lease_s: float = Field(default=60.0, gt=0)
    """How long the computing request may take before one that waits takes its place."""


class DocumentsConfig(Section):
    """Where answers and vectors survive a restart."""

    kind: Literal["memory", "sqlite", "redis"] = "sqlite"
    """`memory` forgets all at a restart; `sqlite` writes a file in the state directory; `redis` a server."""

    redis_url: str = Field(default="redis://127.0.0.1:6379/0", pattern=r"^(rediss?|unix)://\S+$")
    """Redis or Valkey, for `redis`."""

    redis_password_env: str = ""
    """Environment variable of the cache's process with the server's password; empty for one without.
    On Kubernetes `kubernetes.secrets.environment` fills it."""

    wait_s: float = Field(default=0.5, gt=0, le=60)
    """How long a look-up waits for them; then it is answered without near matches and counted, and others do
    not wait until they answer again."""

    write_backlog_max: int = Field(default=1024, ge=1)
    """Writes that wait; one more is dropped and counted, and the entry is lost at a restart."""


class CategoryCacheConfig(Section):
    """What may be served and kept of one category of prompts."""

    allow: bool = True
    """Whether near matches are served and kept at all. Off for what must always be computed."""

    threshold: float = Field(default=0.9, gt=0, le=1)
    """Cosine similarity from which a near match is a would-be hit. Where serving must be verified, it is the
    similarity from which evidence is bought with fresh answers."""

    threshold_min: float = Field(default=0.75, gt=0, le=1)
    """Neither evidence nor load lowers the threshold below this. Between it and the threshold lies the grey
    zone, whose near matches are judged in the background, for evidence and for promotion."""

    error_max: float = Field(default=0.05, gt=0, lt=1)
    """Wrong answers allowed among those served from near matches."""

    explore_share: float = Field(default=0.02, ge=0, le=1)
    """Fraction of hits that is answered fresh, to be judged."""

    ttl_s: float = Field(default=3600.0, gt=0)
    """Age at which an answer is no longer served to near matches. A hit does not renew it."""

    share_max: float = Field(default=0.5, gt=0, le=1)
    """Fraction of the entries that the category may hold."""

    priority: float = Field(default=1.0, gt=0)
    """Worth of the category's entries beside those of others when the tier is full."""

    relaxation_max: float = Field(default=0.02, ge=0, le=0.05)
    """How far full load lowers the threshold, down to what evidence and `threshold_min` allow."""

    ttl_relaxation_max: float = Field(default=0.5, ge=0, le=1)
    """By what fraction full load lengthens `ttl_s`."""

    wrong_answer_loss: float = Field(default=2.0, ge=0)
    """What one wrong answer costs, in answers of a model. Raises the hit rate below which the category is
    turned off."""

    @model_validator(mode="after")
    def _floor_below_threshold(self) -> Self:
        if self.threshold_min > self.threshold:
            raise ValueError(f"threshold_min {self.threshold_min} is above threshold {self.threshold}")
        return self


class JudgeModelConfig(Section):
    """A model that is asked, in the background, whether two answers in other words say the same."""

    url: str = Field(pattern=r"^https?://[^\s/]+(/\S*)?$")
    """Base address of an OpenAI-compatible server, as `http://127.0.0.1:8000/v1`; the gateway's own too."""

    model: str = Field(min_length=1)
    """Its name there. Take one that is better than the models whose answers it judges."""

    api_key_env: str = ""
    """Environment variable of the cache's process that holds the key; without one none is sent."""

    timeout_s: float = Field(default=30.0, gt=0, le=600)
    """One that has not answered by then has no verdict."""


class ErrorContractConfig(Section):
    """How it is found out what may be served."""

    verified: bool = True
    """Serve near matches of a category only while evidence bounds their errors by `error_max`. Off trusts
    `threshold` until evidence contradicts it."""

    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """Of the one-sided Clopper-Pearson bound on wrong answers."""

    slack: float = Field(default=0.7, gt=0, le=1)
    """The threshold goes down only where the bound is below this part of `error_max`."""

    judgements_max: int = Field(default=2000, ge=10, le=1_000_000)
    """Judgements remembered per category; older ones say little about the present."""

    agreement_min: float = Field(default=0.95, gt=0, le=1)
    """Cosine similarity from which two answers that differ in words are judged the same."""

    judge: JudgeModelConfig | None = None
    """Who decides where words differ; without a verdict, or a judge, `agreement_min` does."""

    judging_backlog_max: int = Field(default=256, ge=1)
    """Pairs that wait to be judged; one more is dropped and counted."""


class BreakEvenConfig(Section):
    """When a category's look-ups cost more than its hits save."""

    enabled: bool = True
    """Whether categories are turned off below their break-even hit rate."""

    lookup_cost_s: float = Field(default=0.012, gt=0)
    """What embedding and search of one look-up take."""

    fetch_cost_s: float = Field(default=0.001, ge=0)
    """What reading the stored answer takes."""

    model_cost_s: float = Field(default=1.0, gt=0)
    """What an answer of the model takes, until answers have been seen."""

    half_life_s: float = Field(default=3600.0, gt=0)
    """Age at which a look-up counts half in the hit rate."""

    lookups_min: int = Field(default=200, ge=1)
    """A category is not turned off on fewer look-ups."""

    probe_after_s: float = Field(default=3600.0, gt=0)
    """After so long off, a category is tried again."""


class SemanticTierConfig(Section):
    """Answers to requests that mean the same. Configured per category; off until it is asked for."""

    enabled: bool = False
    """Whether near matches may be served. Needs the time to embed every look-up that misses exactly."""

    default: CategoryCacheConfig = CategoryCacheConfig()
    """What holds for categories that are not named."""

    categories: dict[str, CategoryCacheConfig] = Field(default_factory=dict)
    """By category of the prompt. Fields that are left out have the built-in values, not those of
    `default`."""

    contract: ErrorContractConfig = ErrorContractConfig()
    break_even: BreakEvenConfig = BreakEvenConfig()

    policy_epoch: str = Field(default="1", min_length=1, max_length=64)
    """Part of every entry's identity: changing it makes all that is stored unreachable."""

    entries_max: int = Field(default=20_000, ge=1)
    """Entries kept in all; the least worth goes first."""

    bytes_max: int = Field(default=256 * 1024 * 1024, ge=1024)
    """Bytes of answers and vectors kept in all."""

    disk_entries_max: int = Field(default=0, ge=0, le=100_000_000)
    """Entries beyond these that rest on disk, where a look-up that finds nothing in memory looks next; those
    that expire first go. 0 keeps none there. For `documents.kind: sqlite`."""

    turns_max: int = Field(default=4, ge=1)
    """A conversation of more user turns is only answered from equal requests."""

    text_chars_min: int = Field(default=8, ge=1)
    """Shorter texts mean too little to be compared."""

    embedding_wait_s: float = Field(default=0.25, gt=0, le=60)
    """How long a look-up waits for its embedding; then it is answered without this tier and counted."""

    load_hold_s: float = Field(default=30.0, ge=0)
    """A relaxation by load is taken back only after the load has been lower for so long."""

    documents: DocumentsConfig = DocumentsConfig()

    @model_validator(mode="after")
    def _rests_in_a_file(self) -> Self:
        if self.disk_entries_max and self.documents.kind != "sqlite":
            raise ValueError(
                f"disk_entries_max {self.disk_entries_max} needs documents.kind sqlite, "
                f"not {self.documents.kind}"
            )
        return self


class EncoderConfig(Section):
    """The sentence encoder behind near matches and `/v1/embeddings`."""

    model: str = "all-minilm-l6-v2"
    """Name under which `/v1/models` lists it."""

    threads: int = Field(default=1, ge=1, le=64)
    """Threads of one inference."""

    batch_max: int = Field(default=32, ge=1, le=1024)
    """Texts encoded at a time."""

    inputs_max: int = Field(default=2048, ge=1)
    """Texts in one `/v1/embeddings` request (OpenAI's own bound)."""


class SemanticCacheConfig(Section):
    """The deployment and its tiers."""

    enabled: bool = True
    """Off answers every request from an engine; `/v1/embeddings` is then not served."""

    cpus: float = Field(default=0.1, ge=0)
    """Cores that Ray sets aside for the replica."""

    node_labels: dict[LabelKey, LabelSelector] = Field(default_factory=dict)
    """Labels that a replica's node must have; on Kubernetes `tidemill render` sets them."""

    replicas: int = Field(default=1, ge=1, le=64)
    """Replicas. What may share an answer always goes to the same one; embeddings to any."""

    lookup_timeout_s: float = Field(default=2.0, gt=0)
    """The cache is asked no longer than this (single-flight waiting apart); then the request goes on
    without it."""

    exact: ExactTierConfig = ExactTierConfig()
    semantic: SemanticTierConfig = SemanticTierConfig()
    encoder: EncoderConfig = EncoderConfig()
