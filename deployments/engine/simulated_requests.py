"""What the simulated engine understands of a request, and the text it answers with.

One word is one output token; four bytes of prompt are one prompt token. The text is a function of the prompt
alone, so that every replica answers an equal request equally, as greedy decoding does.
"""

import hashlib
import json
from dataclasses import dataclass, field, replace
from typing import Any

from cluster.config.pools import SimulatedEngine
from cluster.entities.workload import Surface

_BYTES_PER_TOKEN = 4

_STEMS = (
    *("tide", "mill", "wheel", "water", "stone", "grain", "flour", "gate", "pond", "creek", "moon", "ebb"),
    *(
        "flow",
        "wind",
        "sail",
        "harbour",
        "rope",
        "lantern",
        "salt",
        "oak",
        "miller",
        "bread",
        "bridge",
        "path",
    ),
    *("reed", "heron", "otter", "marsh", "island", "chart", "north", "winter"),
)
_ENDINGS = ("", "s", "-by", "-top", "-side", "-ward", "-like", "-less")
WORDS = tuple(stem + ending for stem in _STEMS for ending in _ENDINGS)
"""256 words: one byte of hash picks one."""
WORD_ID = 50_000
"""Id of the first word; the ids of prompts' bytes are others."""
WORD_IDS = {word: WORD_ID + place for place, word in enumerate(WORDS)}


class RequestError(Exception):
    """The request cannot be served; carries what vLLM's error body says."""

    def __init__(self, status: int, message: str, kind: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.param = param


def bad_request(message: str, param: str | None = None) -> RequestError:
    """A mistake in the request's content."""
    return RequestError(400, message, "BadRequestError", param)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One prompt in the form that is hashed and counted."""

    content: bytes
    tokens: int
    said: int = 0
    """Tokens at its end that are the beginning of the answer, which goes on after them."""
    given_ids: tuple[int, ...] = ()
    """As which it came; empty for text."""

    @property
    def ids(self) -> list[int]:
        """Its tokens."""
        return list(self.given_ids) or token_ids(self.content)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A generating request, whatever surface it came in on."""

    surface: Surface
    prompts: tuple[Prompt, ...]
    choices_per_prompt: int
    output_tokens: int
    """Length of every answer."""
    bounded: bool
    """Whether the answer ends because the request's bound, or the model's, was reached."""
    stream: bool
    include_usage: bool
    include_token_ids: bool = False
    """By the fields of completions, or in comments between the events of other surfaces."""
    kv_transfer_params: dict[str, Any] = field(default_factory=dict)
    echo: dict[str, Any] = field(default_factory=dict)
    """The request's fields that the answer repeats."""

    def by_adapter(self, name: str) -> "Ask":
        """The same request to an adapter, which answers it differently."""
        prompts = tuple(replace(p, content=f"{name}\0".encode() + p.content) for p in self.prompts)
        return replace(self, prompts=prompts)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts."""
        return sum(prompt.tokens for prompt in self.prompts)


def parse_body(raw: bytes) -> dict[str, Any]:
    """The JSON object of a request.

    Raises:
        RequestError: it is none.
    """
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        message = f"1 validation error:\n  {{'type': 'json_invalid', 'msg': 'JSON decode error: {error}'}}"
        raise RequestError(400, message, "Bad Request") from error
    if not isinstance(body, dict):
        raise RequestError(400, "1 validation error:\n  Input should be a valid dictionary", "Bad Request")
    return body


def parse_ask(surface: Surface, body: dict[str, Any], *, config: SimulatedEngine, sequences_max: int) -> Ask:
    """Read a generating request.

    Raises:
        RequestError: a field is missing or wrong, the prompt is too long, or it asks for more than
            `sequences_max` answers at once.
    """
    prompts = prompts_of(surface, body)
    for prompt in prompts:
        check_length(prompt, config.max_model_len)
    choices = 1 if surface in {Surface.RESPONSES, Surface.MESSAGES} else _integer(body, "n")
    if choices * len(prompts) > sequences_max:
        raise bad_request(f"n: at most {sequences_max} answers in one request", "n")
    bound = _bound(surface, body, config.max_model_len)
    room = config.max_model_len - max(prompt.tokens for prompt in prompts)
    said = max(prompt.said for prompt in prompts)
    wanted = max(1, config.output_tokens - said) if bound is None else bound
    options = body.get("stream_options") or {}
    params = body.get("kv_transfer_params") or {}
    if not isinstance(options, dict) or not isinstance(params, dict):
        raise bad_request("stream_options and kv_transfer_params must be objects")
    return Ask(
        surface=surface,
        prompts=prompts,
        choices_per_prompt=choices,
        output_tokens=min(wanted, room),
        bounded=bound is not None or wanted > room,
        stream=bool(body.get("stream")),
        include_usage=bool(options.get("include_usage")),
        include_token_ids=bool(body.get("return_token_ids")),
        kv_transfer_params=params,
        echo={key: body[key] for key in ("instructions", "metadata", "temperature", "top_p") if key in body},
    )


def check_length(prompt: Prompt, max_model_len: int) -> None:
    """Refuse a prompt that leaves no room for a token, in vLLM's words.

    Raises:
        RequestError: the prompt is too long.
    """
    if prompt.tokens >= max_model_len:
        raise bad_request(
            f"This model's maximum context length is {max_model_len} tokens. However, your prompt contains "
            f"{prompt.tokens} input tokens, which exceeds this limit even without any output tokens. Please "
            "reduce the length of the input prompt.",
            "input_tokens",
        )


def prompts_of(surface: Surface, body: dict[str, Any]) -> tuple[Prompt, ...]:
    """The prompts of a request; several only for completions.

    Raises:
        RequestError: there is none, or it has no known form.
    """
    if surface is Surface.COMPLETIONS or (surface is Surface.TOKENIZE and "messages" not in body):
        return _completion_prompts(body.get("prompt"))
    if surface is Surface.RESPONSES:
        asked = body.get("input")
        turns = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
        return (_conversation(turns, "input", system=body.get("instructions")),)
    system = body.get("system") if surface in {Surface.MESSAGES, Surface.COUNT_TOKENS} else None
    return (_conversation(body.get("messages"), "messages", system=system),)


def answer_words(prompt: Prompt, choice: int, tokens: int) -> list[str]:
    """The first words of a prompt's answer that it does not hold yet; a longer answer begins as a shorter."""
    picks = hashlib.shake_128(b"%d\0%b" % (choice, prompt.content)).digest(prompt.said + tokens)
    return [WORDS[pick] for pick in picks[prompt.said :]]


def token_ids(content: bytes) -> list[int]:
    """Numbers that stand for the bytes, four in each; the leading one bit keeps their count."""
    starts = range(0, len(content), _BYTES_PER_TOKEN)
    return [int.from_bytes(b"\1" + content[start : start + _BYTES_PER_TOKEN], "big") for start in starts]


def bytes_of(tokens: list[int]) -> bytes:
    """The inverse of `token_ids`; a number that it never gave stands for nothing."""
    parts = (token.to_bytes((token.bit_length() + 7) // 8, "big") for token in tokens)
    return b"".join(part[1:] for part in parts if part[:1] == b"\1")


def _completion_prompts(asked: Any) -> tuple[Prompt, ...]:
    if isinstance(asked, str):
        return (_text(asked),)
    if isinstance(asked, list) and asked:
        if all(isinstance(item, str) for item in asked):
            return tuple(_text(item) for item in asked)
        nested = asked if all(isinstance(item, list) for item in asked) else [asked]
        if all(item and all(_is_token(token) for token in item) for item in nested):
            return tuple(map(_token_prompt, nested))
    raise bad_request("prompt: expected a string, a list of strings, or a list of token ids", "prompt")


def _token_prompt(ids: list[int]) -> Prompt:
    """A prompt of ids: of text as this engine tells it, with or without words of its answer behind it."""
    said = sum(1 for token in ids if _is_word(token))
    if any(_is_word(token) for token in ids[: len(ids) - said]):
        said = 0
    text = ids[: len(ids) - said]
    content = bytes_of(text)
    # Ids that came from nobody's text stand for themselves.
    known = token_ids(content) == text
    content = content if known else json.dumps(text).encode()
    return Prompt(content=content, tokens=len(ids), said=said, given_ids=tuple(ids))


def _is_word(token: int) -> bool:
    return WORD_ID <= token < WORD_ID + len(WORDS)


def _conversation(turns: Any, field_name: str, *, system: Any = None) -> Prompt:
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
        raise bad_request(f"{field_name}: expected a list of at least one message", field_name)
    lines = [f"system: {_content(system)}"] if system else []
    lines += [f"{turn.get('role', turn.get('type', ''))}: {_turn_text(turn)}" for turn in turns]
    return _text("\n".join(lines))


def _turn_text(turn: dict[str, Any]) -> str:
    rest = {key: turn[key] for key in ("tool_calls", "arguments", "output", "name") if turn.get(key)}
    return _content(turn.get("content")) + (json.dumps(rest, sort_keys=True) if rest else "")


def _content(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    parts = content if isinstance(content, list) else [content]
    return "".join(
        part["text"]
        if isinstance(part, dict) and isinstance(part.get("text"), str)
        else json.dumps(part, sort_keys=True)
        for part in parts
    )


def _text(text: str) -> Prompt:
    content = text.encode("utf-8", "surrogatepass")
    return Prompt(content=content, tokens=max(1, -(-len(content) // _BYTES_PER_TOKEN)))


def _is_token(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _bound(surface: Surface, body: dict[str, Any], max_model_len: int) -> int | None:
    if surface is Surface.RESPONSES:
        names: tuple[str, ...] = ("max_output_tokens",)
    elif surface is Surface.CHAT:
        names = ("max_completion_tokens", "max_tokens")
    else:
        names = ("max_tokens",)
    name = next((name for name in names if body.get(name) is not None), None)
    if name is None:
        return None
    bound = _integer(body, name)
    if bound > max_model_len:
        raise bad_request(
            f"{name}={bound} cannot be greater than max_model_len={max_model_len}. "
            "Please request fewer output tokens.",
            name,
        )
    # Who asks for as much as there can be sets no bound: the model ends by itself.
    return None if bound == max_model_len else bound


def _integer(body: dict[str, Any], name: str) -> int:
    value = body.get(name)
    if value is None:
        return 1
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise bad_request(f"{name} must be at least 1, got {value!r}.", name)
    return value
