"""Reads a request body as far as routing needs to understand it; everything else passes through untouched."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson

from cluster.config import TidemillConfig
from cluster.entities.model_routing import Goal
from cluster.entities.workload import Surface
from deployments.router.wire.errors import bad_request, model_not_found
from deployments.router.wire.media import check_media
from deployments.router.wire.prompts import prompt_of

_BOUNDS: Mapping[Surface, tuple[str, ...]] = {
    Surface.CHAT: ("max_completion_tokens", "max_tokens"),
    Surface.COMPLETIONS: ("max_tokens",),
    Surface.RESPONSES: ("max_output_tokens",),
    Surface.MESSAGES: ("max_tokens",),
}
"""Where a surface says how long an answer may be; the first that is there counts, and no other field."""
_BETWEEN_ENGINES = ("kv_transfer_params", "ec_transfer_params")
"""From where an engine fetches what another one has computed. A client who could say it could name any
address, and the blocks of anybody's prompt."""


@dataclass(frozen=True, slots=True)
class AskedAdapter:
    """What a name means that is no model's."""

    model: str
    """The base model."""
    adapter: str
    """Empty where it is left open."""


AdapterLookup = Callable[[str], AskedAdapter | None]
"""What a name means that is no model's; None if nothing. May raise ApiError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedRequest:
    """A request that is worth routing."""

    surface: Surface
    body: dict[str, Any]
    """The client's JSON with `model` replaced by the served model's name."""
    model: str
    """The served model's name; while `goal` leaves it open, the name that the client asked for."""
    prompt: bytes
    """The prompt's text (or token ids) in order: for length and for prefix hashes."""
    prompt_tokens: int | None
    """Exact prompt length if the client sent token ids."""
    stream: bool
    max_output_tokens: int | None
    splittable: bool
    session: str = ""
    """What the client calls its conversation; empty if it says nothing."""
    goal: Goal | None = None
    """What a client wants who leaves the model open; None if it named one, or one was chosen."""
    adapter: str = ""
    """The LoRA adapter of the model that is to answer; empty for the model itself."""
    opens_adapter: bool = False
    """Whether an adapter is still to be chosen; then the body's `model` is the name that leaves it open."""
    deadline_at_s: float | None = None
    """By when the client wants the first token, on the router's clock; None if it does not say."""

    def for_model(self, model: str) -> "ParsedRequest":
        """The request with the model that was chosen for it."""
        return replace(self, model=model, body={**self.body, "model": model}, goal=None)

    def for_adapter(self, adapter: str) -> "ParsedRequest":
        """The request with the adapter that was chosen for it; empty for the model itself."""
        name = f"{self.model}:{adapter}" if adapter else self.model
        return replace(self, body={**self.body, "model": name}, adapter=adapter, opens_adapter=False)

    def apart_from_other_tenants(self, tenant: str) -> "ParsedRequest":
        """The request with a salt by which engines keep its prefix cache from other tenants.

        Without it, how fast a prompt is computed tells whether another tenant has sent the same one.
        """
        if not isinstance(self.body.get("cache_salt"), str | None):
            return self  # the engine says what is wrong with it
        salt = hashlib.sha256(orjson.dumps([tenant, self.cache_salt])).hexdigest()[:32]
        return replace(self, body={**self.body, "cache_salt": salt})

    @property
    def answers(self) -> int:
        """How many it asks for."""
        return _answers(self.body, self.surface)

    @property
    def cache_salt(self) -> str:
        """What keeps equal prompts apart in the engines' prefix caches; empty where they are shared."""
        salt = self.body.get("cache_salt")
        return salt if isinstance(salt, str) else ""

    @property
    def wants_usage(self) -> bool:
        """Whether the client asked for usage at the end of its stream."""
        options = self.body.get("stream_options")
        return isinstance(options, dict) and bool(options.get("include_usage"))


def parse(
    raw: bytes,
    surface: Surface,
    config: TidemillConfig,
    *,
    session: str = "",
    adapters: AdapterLookup = lambda _: None,
) -> ParsedRequest:
    """Parse and check a request body.

    Args:
        raw: the body.
        surface: which API it belongs to.
        config: models and limits.
        session: what a header calls the conversation; without it, the body's `user` does.
        adapters: finds adapters by name.

    Raises:
        ApiError: 400 or 404, in words that say what would be right.
    """
    body = _object(raw, depth_max=config.gateway.json_depth_max)
    _refuse_tickets(body)
    check_media(body, config.gateway.allowed_media_domains)
    model, goal, adapter = _model(body, surface, config, adapters)
    if adapter is None:
        body["model"] = model
    elif adapter.adapter:
        body["model"] = f"{model}:{adapter.adapter}"
    stream = _typed(body, "stream", bool, "a boolean") or False
    max_output = None
    for name in _BOUNDS.get(surface, ()):
        value = _typed(body, name, int, "an integer")
        if value is not None and value < 0:
            raise bad_request(f"`{name}` must not be negative, not {value}.", param=name)
        max_output = value if max_output is None else max_output
    n = _typed(body, "n", int, "an integer")
    if n is not None and n < 1:
        raise bad_request(f"`n` must be at least 1, not {n}.", param="n")
    _typed(body, "stream_options", dict, "an object")
    _check_answers(body, surface, config.gateway.answers_max)
    prompt, exact, single = prompt_of(body, surface)
    return ParsedRequest(
        surface=surface,
        body=body,
        model=model,
        prompt=prompt,
        prompt_tokens=exact,
        stream=stream,
        max_output_tokens=max_output,
        splittable=surface.generates and single and _one_plain_choice(body),
        session=session or _user(body),
        goal=goal,
        adapter="" if adapter is None else adapter.adapter,
        opens_adapter=adapter is not None and not adapter.adapter,
    )


def _user(body: dict[str, Any]) -> str:
    user = body.get("user")
    return user if isinstance(user, str) else ""


def session_id(tenant: str, session: str) -> str:
    """A conversation's opaque id; equal names of two tenants have nothing in common."""
    if not session:
        return ""
    return hashlib.blake2b(f"{tenant}\0{session}".encode(), digest_size=8).hexdigest()


def _object(raw: bytes, *, depth_max: int) -> dict[str, Any]:
    if not raw:
        raise bad_request("The request body is empty; send a JSON object.")
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise bad_request(f"The request body is not valid JSON: {error}.", code="invalid_json") from error
    if not isinstance(body, dict):
        raise bad_request(f"The request body must be a JSON object, not {type(body).__name__}.")
    # Few brackets cannot nest deep, and counting them costs next to nothing.
    if raw.count(b"[") + raw.count(b"{") > depth_max and _deeper_than(body, depth_max):
        raise bad_request(f"The request is nested deeper than {depth_max} levels.")
    return body


def _deeper_than(body: Any, depth_max: int) -> bool:
    """Whether containers nest too deep. Looks at containers only, level by level, never at text."""
    level = [body]
    for _ in range(depth_max):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True


def _model(
    body: dict[str, Any], surface: Surface, config: TidemillConfig, adapters: AdapterLookup
) -> tuple[str, Goal | None, AskedAdapter | None]:
    """The served model, or the name that leaves it open and with what goal; the adapter, if one is meant."""
    asked = body.get("model")
    if asked is None:
        return config.default_model, None, None
    if not isinstance(asked, str):
        raise bad_request("`model` must be a string.", param="model")
    served = config.model_for(asked)
    if served is not None:
        return served, None, None
    goal = config.goal_of(asked)
    adapter = adapters(asked) if goal is None else None
    if goal is None and adapter is None:
        raise model_not_found(asked, config.client_names)
    if adapter is not None:
        # Adapters share their model's tokenizer.
        return adapter.model, None, adapter if surface.generates else None
    # What generates nothing is not worth a choice.
    return (asked, goal, None) if surface.generates else (config.default_model, None, None)


def _refuse_tickets(body: dict[str, Any]) -> None:
    extra = body.get("vllm_xargs")  # becomes one with the engine's own arguments
    for name in _BETWEEN_ENGINES:
        if body.get(name) is not None or (isinstance(extra, dict) and name in extra):
            raise bad_request(f"`{name}` is between engines and not taken from clients.", param=name)


def _answers(body: dict[str, Any], surface: Surface) -> int:
    """`n` to every prompt."""
    if surface not in (Surface.CHAT, Surface.COMPLETIONS):
        return 1
    prompt = body.get("prompt") if surface is Surface.COMPLETIONS else None
    prompts = len(prompt) if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else 1
    return prompts * int(body.get("n") or 1)


def _check_answers(body: dict[str, Any], surface: Surface, most: int) -> None:
    asked = _answers(body, surface)
    if asked > most:
        name = "n" if surface is Surface.CHAT else "prompt"
        raise bad_request(f"The request asks for {asked} answers; at most {most} are given.", param=name)


def _typed(body: dict[str, Any], name: str, kind: type, words: str) -> Any:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise bad_request(f"`{name}` must be {words}.", param=name)
    return value


def _one_plain_choice(body: Mapping[str, Any]) -> bool:
    """Whether one sequence is generated and nothing is asked of the prompt's own tokens."""
    return (
        body.get("n") in (None, 1)
        and body.get("best_of") in (None, 1)
        and body.get("max_tokens") != 0
        and not body.get("echo")
        and not body.get("use_beam_search")
        and body.get("prompt_logprobs") is None
    )


def tenant_of(headers: Mapping[str, str]) -> str:
    """The partition of a caller: derived from the API key, and not the key itself."""
    key = headers.get("authorization", "").removeprefix("Bearer ").strip() or headers.get("x-api-key", "")
    return hashlib.sha256(key.encode()).hexdigest()[:16] if key else "anonymous"


def prefill_body(request: ParsedRequest) -> dict[str, Any]:
    """The request as a prefill replica gets it: one token, no stream, and a ticket for the KV cache."""
    body = {key: value for key, value in request.body.items() if key not in _NOT_FOR_PREFILL}
    body["stream"] = False
    if request.surface is Surface.RESPONSES:
        body |= {"max_output_tokens": 1, "store": False}
    else:
        body["max_tokens"] = 1
    body["kv_transfer_params"] = {
        "do_remote_decode": True,
        "do_remote_prefill": False,
        "remote_engine_id": None,
        "remote_block_ids": None,
        "remote_host": None,
        "remote_port": None,
    }
    return body


_NOT_FOR_PREFILL = frozenset(
    {"stream", "stream_options", "max_tokens", "max_completion_tokens", "max_output_tokens", "min_tokens"}
)


def answer_body(request: ParsedRequest, ticket: dict[str, Any] | None) -> bytes:
    """The request as the answering replica gets it."""
    extra: dict[str, Any] = {}
    if ticket is not None:
        extra["kv_transfer_params"] = ticket
    if counts_usage(request):
        extra["stream_options"] = {**(request.body.get("stream_options") or {}), "include_usage": True}
    return orjson.dumps({**request.body, **extra} if extra else request.body)


def counts_usage(request: ParsedRequest) -> bool:
    """Whether usage has to be asked for, because this surface's streams tell it only then."""
    return request.stream and request.surface in (Surface.CHAT, Surface.COMPLETIONS)
