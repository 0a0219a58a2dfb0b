"""What is known of a request before it is routed."""

from dataclasses import dataclass
from enum import StrEnum


class Surface(StrEnum):
    """The HTTP surface a request came in on; each is relayed to the engine's surface of the same path."""

    CHAT = "/v1/chat/completions"
    COMPLETIONS = "/v1/completions"
    RESPONSES = "/v1/responses"
    MESSAGES = "/v1/messages"
    COUNT_TOKENS = "/v1/messages/count_tokens"
    EMBEDDINGS = "/v1/embeddings"
    TOKENIZE = "/tokenize"
    DETOKENIZE = "/detokenize"

    @property
    def generates(self) -> bool:
        """Whether the engine produces tokens for it, so that it has a prefill and a decode phase."""
        return self in _GENERATING


_GENERATING = frozenset({Surface.CHAT, Surface.COMPLETIONS, Surface.RESPONSES, Surface.MESSAGES})


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestSignals:
    """Everything that routing may look at. Never the prompt's text itself."""

    surface: Surface
    model: str
    """The served model's name, after aliases."""
    tenant: str
    """Opaque partition id derived from the API key; never the key."""
    prompt_tokens: int
    """Estimated prompt length in tokens (the engine's usage gives the true count afterwards)."""
    block_hashes: tuple[int, ...] = ()
    """Chained hashes of the prompt's leading blocks, salted by model and `cache_salt`: equal prefix,
    equal hashes."""
    block_tokens: int = 0
    """Estimated tokens in one hashed block."""
    max_output_tokens: int | None = None
    """The client's bound on output tokens; None if it gave none."""
    stream: bool = False
    session: str = ""
    """Opaque id of the conversation, derived from what the client sent; empty if it sent nothing."""
    adapter: str = ""
    """The LoRA adapter that the request asks for; empty for none."""
    splittable: bool = False
    """Whether prefill and decode may run on two engines: one prompt, one choice, and nothing asked of the
    prompt's own tokens."""
