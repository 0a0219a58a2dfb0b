"""An answer that is held back: read for grading, and brought into the form that the client asked for."""

from typing import Any

import orjson

from cluster.entities.workload import Surface
from deployments.router.wire.requests import ParsedRequest
from deployments.router.wire.responder import Responder

_NOT_IN_A_DELTA = frozenset({"role", "tool_calls", "function_call", "refusal", "annotations", "audio"})


async def _nowhere(_: Any) -> None:
    """Nothing is sent."""


class HeldAnswer(Responder):
    """Takes a whole answer instead of a client."""

    def __init__(self) -> None:
        """Hold nothing yet."""
        super().__init__(_nowhere)
        self.content_type = ""
        self.body = b""

    async def whole(self, status: int, content_type: str, body: bytes) -> None:
        """Keep it."""
        self.status, self.content_type, self.body, self.ended = status, content_type, body, True

    @property
    def content(self) -> dict[str, Any]:
        """The answer, which the relay has found to be JSON."""
        answer: dict[str, Any] = orjson.loads(self.body)
        return answer


def margins_of(answer: dict[str, Any], surface: Surface) -> list[float]:
    """For every token the gap in log-probability between the two likeliest; empty if the engine says none."""
    logprobs = answer["choices"][0].get("logprobs") or {}
    if surface is Surface.CHAT:
        tokens = logprobs.get("content") or ()
        found = [[top["logprob"] for top in token.get("top_logprobs") or ()] for token in tokens]
    else:
        found = [list((token or {}).values()) for token in logprobs.get("top_logprobs") or ()]
    ordered = (sorted(values, reverse=True) for values in found if len(values) >= 2)
    return [values[0] - values[1] for values in ordered]


def sent_as(request: ParsedRequest, answer: dict[str, Any]) -> tuple[str, bytes]:
    """Content type and body of an answer as the client asked for it."""
    choice = dict(answer["choices"][0])
    choice["logprobs"] = _asked_logprobs(request, choice.get("logprobs"))
    answer = {**answer, "choices": [choice]}
    if not request.stream:
        return "application/json", orjson.dumps(answer)
    head = {
        "id": answer.get("id"),
        "object": "chat.completion.chunk" if request.surface is Surface.CHAT else "text_completion",
        "created": answer.get("created"),
        "model": answer.get("model"),
    }
    events = [{**head, "choices": [part]} for part in _parts(choice, request.surface)]
    if request.wants_usage:
        events = [{**event, "usage": None} for event in events]
        events.append({**head, "choices": [], "usage": answer["usage"]})
    lines = (b"data: " + orjson.dumps(event) + b"\n\n" for event in events)
    return "text/event-stream; charset=utf-8", b"".join(lines) + b"data: [DONE]\n\n"


def _asked_logprobs(request: ParsedRequest, found: Any) -> Any:
    """What the client asked for of the log-probabilities that grading needed; None if it asked for none."""
    asked = request.body.get("logprobs")
    if not asked or not isinstance(found, dict):
        return None
    if request.surface is Surface.CHAT:
        most = request.body.get("top_logprobs") or 0
        tokens = [
            {**token, "top_logprobs": (token.get("top_logprobs") or [])[:most]}
            for token in found.get("content") or ()
        ]
        return {**found, "content": tokens}
    tops = [dict(list((token or {}).items())[:asked]) for token in found.get("top_logprobs") or ()]
    return {**found, "top_logprobs": tops}


def _parts(choice: dict[str, Any], surface: Surface) -> list[dict[str, Any]]:
    """The choices of the events of a stream."""
    index, finish, logprobs = choice.get("index", 0), choice.get("finish_reason"), choice.get("logprobs")
    ending = {"finish_reason": finish, "stop_reason": choice.get("stop_reason")}
    if surface is Surface.COMPLETIONS:
        return [{"index": index, "text": choice.get("text", ""), "logprobs": logprobs, **ending}]
    message = choice.get("message") or {}
    delta = {key: value for key, value in message.items() if key not in _NOT_IN_A_DELTA and value}
    role = {"role": message.get("role", "assistant"), "content": ""}
    return [
        {"index": index, "delta": role, "logprobs": None, "finish_reason": None},
        {"index": index, "delta": delta or {"content": ""}, "logprobs": logprobs, "finish_reason": None},
        {"index": index, "delta": {"content": ""}, "logprobs": None, **ending},
    ]
