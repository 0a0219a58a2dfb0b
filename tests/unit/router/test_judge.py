"""A judge's verdict is read from its likeliest tokens, however it writes yes and no."""

import math

import pytest

from deployments.router.generation.judge import question_about, verdict_in


def answer(*tops):
    content = [{"top_logprobs": [{"token": token, "logprob": math.log(share)} for token, share in tops]}]
    return {"choices": [{"logprobs": {"content": content}}]}


@pytest.mark.parametrize(
    ("tops", "grade"),
    [
        ([("yes", 0.8), ("no", 0.2)], 0.8),
        ([(" Yes", 0.5), ("YES", 0.1), ("No.", 0.2), ("maybe", 0.1)], 0.75),
        ([("yes", 0.9), ("the", 0.1)], 0.9),
        ([("no", 0.75), ("a", 0.25)], 0.25),
    ],
)
def test_yes_against_no(tops, grade):
    assert verdict_in(answer(*tops)) == pytest.approx(grade)


@pytest.mark.parametrize(
    "odd", [answer(("the", 1.0)), answer(), {"choices": [{}]}, {"choices": [{"logprobs": {"content": []}}]}]
)
def test_neither_is_no_verdict(odd):
    assert verdict_in(odd) is None


def test_a_judge_reads_no_more_than_it_can():
    asked = question_about("q" * 100_000, "a" * 100_000, model="m", cache_salt="")
    assert len(asked.prompt) < 20_000
    assert asked.body["max_tokens"] == asked.max_output_tokens == 1
