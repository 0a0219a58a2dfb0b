"""What answers show of their own quality: how they ended, and whether they are JSON where it was asked for.

Neither says that an answer is good; each takes something from a quality of 1, by a configured weight.
"""

from collections.abc import Iterator
from typing import Any

import orjson

from cluster.config.model_learning import AutomaticSignalsConfig
from cluster.entities.decision import DecisionRecord
from cluster.entities.model_routing import FeedbackSource
from cluster.entities.reasons import Reason
from cluster.entities.workload import Surface
from deployments.model_learning.state import Feedback
from deployments.router.core import RouterCore
from deployments.router.generation.relay import Relayed
from deployments.router.generation.stream import Finish
from deployments.router.wire.requests import ParsedRequest


def retry_signals(core: RouterCore, record: DecisionRecord, text: str, *, at_s: float) -> list[Feedback]:
    """What it says of an earlier answer that the same is asked again."""
    earlier = core.retries.earlier(record.signals.tenant, text, record.decision_id, now_s=at_s)
    if earlier is None:
        return []
    return [_signal(earlier, "retry", 1.0 - core.config.routing.learning.automatic.retry_weight, at_s)]


def answer_signals(
    core: RouterCore, record: DecisionRecord, request: ParsedRequest, relayed: Relayed, *, at_s: float
) -> list[Feedback]:
    """What an answer shows itself."""
    config, left = core.config.routing.learning.automatic, Reason.CLIENT_LEFT in record.reasons
    rewards = rewards_of(request, relayed, config, left=left)
    return [_signal(record.decision_id, name, reward, at_s) for name, reward in rewards]


def _signal(decision_id: str, name: str, reward: float, at_s: float) -> Feedback:
    return Feedback(
        decision_id=decision_id,
        reward=max(0.0, reward),
        source=FeedbackSource.AUTOMATIC,
        signal=name,
        at_s=at_s,
    )


def rewards_of(
    request: ParsedRequest, relayed: Relayed, config: AutomaticSignalsConfig, *, left: bool
) -> Iterator[tuple[str, float]]:
    """The signals that an answer gives, with the quality that each stands for.

    Args:
        request: what was asked.
        relayed: what was answered.
        config: weights; a signal without weight is not given.
        left: whether the client left in the middle of it.
    """
    if left:
        if config.left_weight:
            yield "left", 1.0 - config.left_weight
        return
    weights = {Finish.CUT: config.cut_weight, Finish.REFUSED: config.refused_weight}
    weight = weights.get(relayed.finish, 0.0)
    if weight:
        yield relayed.finish.value, 1.0 - weight
    body = relayed.cacheable_body
    if config.format_weight and body is not None and asks_for_json(request):
        valid = is_json(request, answer_text(body, request.surface, streamed=request.stream))
        yield "format", 1.0 if valid else 1.0 - config.format_weight


def asks_for_json(request: ParsedRequest) -> bool:
    """Whether the answer is to be JSON."""
    return _format(request).get("type") in ("json_object", "json_schema")


def _format(request: ParsedRequest) -> dict[str, Any]:
    holder = request.body
    found = holder.get("response_format")
    if request.surface is Surface.RESPONSES:
        text = holder.get("text")
        found = text.get("format") if isinstance(text, dict) else None
    return found if isinstance(found, dict) else {}


def is_json(request: ParsedRequest, text: str) -> bool:
    """Whether an answer is the JSON that was asked for: it parses, and has the fields the schema requires."""
    try:
        answer = orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    wanted = _format(request)
    holder = wanted.get("json_schema") if isinstance(wanted.get("json_schema"), dict) else wanted
    schema = holder.get("schema") if isinstance(holder, dict) else None
    required = schema.get("required") if isinstance(schema, dict) else None
    if wanted.get("type") == "json_object" or (isinstance(schema, dict) and schema.get("type") == "object"):
        names = required if isinstance(required, list) else []
        return isinstance(answer, dict) and all(name in answer for name in names)
    return True


def answer_text(body: bytes, surface: Surface, *, streamed: bool) -> str:
    """The text of a kept answer; empty if it has none."""
    if not streamed:
        return _whole_text(_loaded(body), surface)
    lines = (line[6:] for line in body.split(b"\n") if line.startswith(b"data: "))
    return "".join(_piece(_loaded(line), surface) for line in lines if line != b"[DONE]")


def _loaded(body: bytes) -> dict[str, Any]:
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _whole_text(answer: dict[str, Any], surface: Surface) -> str:
    if surface is Surface.MESSAGES:
        return "".join(part.get("text") or "" for part in answer.get("content") or ())
    if surface is Surface.RESPONSES:
        items = [part for item in answer.get("output") or () for part in item.get("content") or ()]
        return "".join(part.get("text") or "" for part in items)
    choices: list[dict[str, Any]] = answer.get("choices") or [{}]
    message = choices[0].get("message") or {}
    return message.get("content") or choices[0].get("text") or ""


def _piece(event: dict[str, Any], surface: Surface) -> str:
    delta = event.get("delta")
    if surface is Surface.MESSAGES:
        return delta.get("text") or "" if isinstance(delta, dict) else ""
    if surface is Surface.RESPONSES:
        return delta if event.get("type") == "response.output_text.delta" and isinstance(delta, str) else ""
    choices: list[dict[str, Any]] = event.get("choices") or [{}]
    return (choices[0].get("delta") or {}).get("content") or choices[0].get("text") or ""
