"""The log of routing decisions."""

from pydantic import Field

from cluster.config.base import Section


class DecisionLogConfig(Section):
    """One JSONL record for every routed request, in files of bounded size."""

    enabled: bool = True
    """Whether records are written to disk; the latest ones are kept in memory in any case."""

    file_bytes_max: int = Field(default=32 * 1024 * 1024, ge=64 * 1024)
    """A file that has grown to this size is closed and the next one begun."""

    files_max: int = Field(default=4, ge=1, le=1000)
    """Files kept for one router replica, the oldest is deleted; and four times as many of routers that are
    gone."""

    memory_records_max: int = Field(default=2000, ge=1)
    """Latest records kept in memory for `/admin/decisions/{id}`."""

    embeddings: bool = True
    """Whether records hold the sentence embeddings from which models were chosen. With them another policy
    can be judged on old traffic (`tidemill evaluate`); they are no text, but tell what prompts are about."""

    queue_max: int = Field(default=10_000, ge=1)
    """Records that may wait to be written; one more is dropped and counted."""
