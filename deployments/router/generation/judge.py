"""Asks a model whether an answer is right; its verdict is how much likelier `yes` is than `no`."""

import math
from typing import Any

from cluster.entities.workload import Surface
from cluster.policy.routing.models.verifier import grade_by_verdict
from deployments.router.wire.requests import ParsedRequest

_QUESTION = (
    "Question:\n{question}\n\nAnswer:\n{answer}\n\nIs this answer correct and complete? Reply with one word, "
    "yes or no."
)
_CHARS_MAX = 8192
"""Of question and answer each: a judge has no longer context than others."""
_CANDIDATES = 20
"""The likeliest tokens that vLLM tells at most, if nothing else is configured."""


def question_about(question: str, answer: str, *, model: str, cache_salt: str) -> ParsedRequest:
    """What a judge is asked; with the salt that keeps the tenant's own request from others."""
    text = _QUESTION.format(question=question[-_CHARS_MAX:], answer=answer[:_CHARS_MAX])
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": _CANDIDATES,
    }
    if cache_salt:
        body["cache_salt"] = cache_salt
    return ParsedRequest(
        surface=Surface.CHAT,
        body=body,
        model=model,
        prompt=text.encode(),
        prompt_tokens=None,
        stream=False,
        max_output_tokens=1,
        splittable=False,
    )


def verdict_in(answer: dict[str, Any]) -> float | None:
    """A judge's grade, 0..1; None if neither yes nor no is among its likeliest tokens."""
    logprobs = answer["choices"][0].get("logprobs") or {}
    first = (logprobs.get("content") or [{}])[0]
    said = {"yes": 0.0, "no": 0.0}
    rest = math.inf
    for token in first.get("top_logprobs") or ():
        word = str(token["token"]).strip().strip(".,!").lower()
        if word in said:
            said[word] += math.exp(token["logprob"])
        rest = min(rest, token["logprob"])
    if not any(said.values()):
        return None
    # What is not among the likeliest is at most as likely as the least of them.
    yes, no = (math.log(share) if share else rest for share in said.values())
    return grade_by_verdict(yes, no)
