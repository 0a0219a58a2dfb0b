"""`POST /v1/feedback`: how good an answer was, said later by whoever can tell."""

import math
import re
from dataclasses import replace

import orjson

from cluster.entities.model_routing import FeedbackSource
from deployments.model_learning.state import Feedback, FeedbackResult
from deployments.router.core import RouterCore
from deployments.router.tenants.keys import OPERATOR, Caller
from deployments.router.wire.errors import ApiError, bad_request
from deployments.router.wire.responder import Responder

PATH = "/v1/feedback"
_ID = re.compile(r"d-[0-9a-f]{12}-[0-9a-f]{10}")
_SOURCES = (FeedbackSource.CALLER, FeedbackSource.JUDGE)
"""Automatic signals are not a caller's to send."""


async def answer(core: RouterCore, raw: bytes, responder: Responder, caller: Caller | None) -> None:
    """Answer one request.

    Ids of decisions stand in logs, so knowing one is not enough: a tenant judges answers to its own requests,
    and those of others are unknown to it. Whoever holds the admin key judges any; without tenants, everybody.

    Raises:
        ApiError: 400 for what is malformed, 404 for what is unknown or over, 409 for a second opinion of
            the same source, 503 while the learner is away.
    """
    if core.learning is None and core.adapters is None:
        message = "No model is chosen here that could be judged: callers name their models (routing.auto)."
        raise ApiError(status=404, message=message, code="model_routing_off")
    judgement = replace(_parsed(raw, core.wall_s()), tenant=_judging(caller))
    result = await _judged(core, judgement)
    if result is FeedbackResult.UNKNOWN:
        window_s = core.config.routing.learning.feedback_window_s
        message = (
            f"No decision {judgement.decision_id!r} that feedback can be given on: it is unknown, older than "
            f"{window_s:.0f} s, its answer failed or was a stored one, or the caller had named "
            "the model, or the adapter."
        )
        raise ApiError(status=404, message=message, code="decision_not_found", param="decision_id")
    if result is FeedbackResult.CONFLICTING:
        message = (
            f"{judgement.source.value} has judged {judgement.decision_id!r} already, with another reward; "
            "what was learnt from it cannot be taken back."
        )
        raise ApiError(status=409, message=message, code="feedback_conflict", param="reward")
    content = {
        "object": "feedback",
        "decision_id": judgement.decision_id,
        "reward": judgement.reward,
        "source": judgement.source.value,
        "status": result.value,
    }
    await responder.json(200, content)


def _judging(caller: Caller | None) -> str | None:
    return None if caller is None or caller.tenant == OPERATOR else caller.tenant


async def _judged(core: RouterCore, judgement: Feedback) -> FeedbackResult:
    """What becomes of it: with the node whose adapter was chosen, or else with the learner of models."""
    found = None if core.adapters is None else await core.adapters.judge(judgement)
    if found is not None:
        return found
    if core.learning is None:
        return FeedbackResult.UNKNOWN
    result = await core.learning.judge(judgement)
    core.metrics.feedback(judgement.source, result)
    return result


def _parsed(raw: bytes, now_s: float) -> Feedback:
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise bad_request(f"The request body is not valid JSON: {error}.", code="invalid_json") from error
    if not isinstance(body, dict):
        raise bad_request("The request body must be an object with `decision_id` and `reward`.")
    for name in body:
        if name not in {"decision_id", "reward", "source"}:
            raise bad_request(f"`{name}` is not known; feedback has decision_id, reward, source.", param=name)
    decision_id, reward = body.get("decision_id"), body.get("reward")
    if not isinstance(decision_id, str) or not _ID.fullmatch(decision_id):
        message = "`decision_id` must be the x-tidemill-decision-id of an answer."
        raise bad_request(message, param="decision_id")
    if isinstance(reward, bool) or not isinstance(reward, int | float) or not math.isfinite(reward):
        raise bad_request("`reward` must be a number from 0 (useless) to 1 (perfect).", param="reward")
    if not 0 <= reward <= 1:
        raise bad_request(f"`reward` must be from 0 to 1, not {reward}.", param="reward")
    source = body.get("source", FeedbackSource.CALLER.value)
    if source not in [known.value for known in _SOURCES]:
        raise bad_request(f"`source` must be one of {', '.join(_SOURCES)}.", param="source")
    return Feedback(decision_id=decision_id, reward=float(reward), source=FeedbackSource(source), at_s=now_s)
