"""When another replica goes on with an answer whose replica has failed."""

from pydantic import Field

from cluster.config.base import Section


class ContinuationConfig(Section):
    """Streams that survive their replica: another one gets the prompt and the tokens that were made."""

    enabled: bool = True
    """Off ends such a stream with an error event. On, engines are asked for the ids of their tokens, which
    the router takes out of a stream and keeps while it runs."""

    max_attempts: int = Field(default=3, ge=1, le=20)
    """How often one answer is taken up by another replica; then it ends with an error event."""

    tokens_max: int = Field(default=65_536, ge=1)
    """Tokens of prompt and answer together that are kept for one stream; a longer one is not taken up."""

    silence_s: float = Field(default=3.0, gt=0)
    """A replica that has dropped out of the routing table and has sent nothing for as long as this is given
    up: its process hangs, or its network is gone."""
