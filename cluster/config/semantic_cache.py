"""The semantic-cache deployment: whole answers, kept for requests that ask the same again."""

from pydantic import Field

from cluster.config.base import Section


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


class SemanticTierConfig(Section):
    """Answers to requests that mean the same. Configured per category; off until it is asked for."""

    enabled: bool = False
    """Whether near matches may be served."""

    threshold: float = Field(default=0.95, gt=0, le=1)
    """Cosine similarity from which a near match is a hit."""


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

    lookup_timeout_s: float = Field(default=2.0, gt=0)
    """The cache is asked no longer than this (single-flight waiting apart); then the request goes on
    without it."""

    exact: ExactTierConfig = ExactTierConfig()
    semantic: SemanticTierConfig = SemanticTierConfig()
    encoder: EncoderConfig = EncoderConfig()
