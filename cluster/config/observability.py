"""What is told about single requests: traces, a log line each, and the page for people."""

from pydantic import Field

from cluster.config.base import Section


class TracingConfig(Section):
    """OpenTelemetry spans of every request: router, semantic cache, prefill, decode, and vLLM's own."""

    endpoint: str = Field(default="", pattern=r"^(https?://\S+)?$")
    """Where spans go, as OTLP over HTTP: `http://COLLECTOR:4318/v1/traces`. Empty records none. A
    `traceparent` that a client sends reaches the engines in either case."""

    sample_ratio: float = Field(default=1.0, ge=0, le=1)
    """Part of the traces that are recorded where the client has not decided; its `traceparent` says whether
    it has."""

    spans_queued_max: int = Field(default=2048, ge=1, le=1_000_000)
    """Spans that may wait to be sent; further ones are dropped."""

    export_timeout_s: float = Field(default=5.0, gt=0)
    """For one delivery to the endpoint."""


class LoggingConfig(Section):
    """One JSON line for every request, in files of bounded size (STATE/requests)."""

    requests: bool = True
    """Whether there are such lines."""

    prompts: bool = False
    """Whether a line holds the prompt's text. What people write is then on disk, for everybody who may read
    the file."""

    prompt_chars_max: int = Field(default=4000, ge=1, le=1_000_000)
    """A longer prompt is cut to this length in its line."""

    file_bytes_max: int = Field(default=32 * 1024 * 1024, ge=64 * 1024)
    """A file that has grown to this size is closed and the next one begun."""

    files_max: int = Field(default=4, ge=1, le=1000)
    """Files kept for one router replica, the oldest is deleted; and four times as many of routers that are
    gone."""

    queue_max: int = Field(default=10_000, ge=1)
    """Lines that may wait to be written; one more is dropped and counted."""


class StatusPageConfig(Section):
    """The page at `/` for people, and the events that keep it fresh."""

    enabled: bool = True
    """Whether `/` and `/status/events` are there."""

    period_s: float = Field(default=1.0, ge=0.1, le=60)
    """Pause between two events."""

    subscribers_max: int = Field(default=32, ge=1, le=10_000)
    """Open pages of one router replica; one more gets 503."""

    decisions_max: int = Field(default=30, ge=0, le=1000)
    """Latest decisions that are shown."""

    decisions_without_key: bool = True
    """Whether decisions are shown without the admin key. This holds only where there are no tenants
    (`tenants.enabled`), the gateway listens on a loopback address, and the page is opened under a loopback
    name."""
