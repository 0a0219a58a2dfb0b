"""Who shares answers with whom at all, and what is never kept or asked for."""

import time

import pytest

from cluster.config.semantic_cache import SemanticTierConfig
from cluster.entities.workload import Surface
from cluster.policy.semantic_cache.cacheability import Refusal, request_refusal
from cluster.policy.semantic_cache.identity import identify

CONFIG = SemanticTierConfig()
SYSTEM = {"role": "system", "content": "Be brief."}
BODY = {"model": "m", "messages": [SYSTEM, {"role": "user", "content": "What is a tide?"}], "temperature": 0}


def identity(body, surface=Surface.CHAT, epoch="1", version=""):
    return identify(body, surface, policy_epoch=epoch, knowledge_version=version)


def with_last(text):
    return {**BODY, "messages": [SYSTEM, {"role": "user", "content": text}]}


def refusal(body):
    return request_refusal(body, identity(body), CONFIG)


def test_only_the_last_user_text_may_differ():
    assert identity(with_last("Why are there tides?")).scope == identity(BODY).scope
    assert identity(with_last("Why are there tides?")).text == "Why are there tides?"


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 1},
        {"max_tokens": 5},
        {"response_format": {"type": "json_object"}},
        {"messages": [{"role": "system", "content": "Be long."}, BODY["messages"][1]]},
        {"messages": [SYSTEM, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"},
                      BODY["messages"][1]]},
        {"unknown": 1},
    ],
)  # fmt: skip
def test_everything_else_keeps_apart(changes):
    assert identity({**BODY, **changes}).scope != identity(BODY).scope


def test_epoch_and_knowledge_version_keep_apart():
    scopes = {identity(BODY, epoch=e, version=v).scope for e in ("1", "2") for v in ("", "kb-7")}
    assert len(scopes) == 4


@pytest.mark.parametrize(
    "changes",
    [
        {"stream": True},
        {"user": "u"},
        {"metadata": {"a": 1}},
        {"model": "x"},
        {"safety_identifier": "hash of the user"},
        {"prompt_cache_key": "conversation 7"},
    ],
)
def test_what_does_not_shape_the_answer_does_not_keep_apart(changes):
    assert identity({**BODY, **changes}).scope == identity(BODY).scope


@pytest.mark.parametrize(
    "changes", [{"user": "u"}, {"metadata": {"a": 1}}, {"safety_identifier": "s"}, {"prompt_cache_key": "p"}]
)
def test_what_a_response_repeats_keeps_responses_apart(changes):
    body = {"model": "m", "input": "What is a tide?"}
    assert identity({**body, **changes}, Surface.RESPONSES).scope != identity(body, Surface.RESPONSES).scope


def test_streams_of_surfaces_that_are_not_translated_keep_apart():
    body = {"model": "m", "input": "What is a tide?"}
    plain, stream = (identity({**body, "stream": s}, Surface.RESPONSES) for s in (False, True))
    assert plain.scope != stream.scope


@pytest.mark.parametrize(
    ("body", "surface"),
    [
        ({"messages": [{"role": "assistant", "content": "x"}]}, Surface.CHAT),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, Surface.CHAT),
        ({"messages": []}, Surface.CHAT),
        ({"prompt": [1, 2, 3]}, Surface.COMPLETIONS),
        ({"input": [{"role": "user", "content": 5}]}, Surface.RESPONSES),
    ],
)
def test_what_is_not_one_text_has_no_identity(body, surface):
    assert identity(body, surface) is None
    assert request_refusal(body, None, CONFIG) is Refusal.NO_TEXT


def test_a_plain_question_is_let_through():
    assert refusal(BODY) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("My email is a@b.example, reset it", Refusal.PERSONAL),
        ("Reset -o.doe+x@b.example, please", Refusal.PERSONAL),
        ("my name is Ada, greet me", Refusal.PERSONAL),
        ("Call +44 20 7946 0958 for me", Refusal.PERSONAL),
        ("What is the latest news?", Refusal.MOMENTARY),
        ("What's the time in Rome?", Refusal.MOMENTARY),
        ("hi", Refusal.SHORT),
    ],
)
def test_answers_for_one_person_or_moment_are_not_shared(text, expected):
    assert refusal(with_last(text)) is expected


@pytest.mark.parametrize("unit", ["a", "a.", "1 (", "a@", "1 ", "my "])
def test_no_text_makes_the_look_at_it_slow(unit):
    text = unit * (100_000 // len(unit))
    began_at_s = time.perf_counter()
    refusal(with_last(text))
    assert time.perf_counter() - began_at_s < 1.0


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"tools": [{"type": "function"}]}, Refusal.TOOLS),
        ({"messages": [{"role": "tool", "content": "x"}, BODY["messages"][1]]}, Refusal.TOOLS),
        ({"n": 2}, Refusal.SEVERAL_CHOICES),
        ({"logprobs": True}, Refusal.SEVERAL_CHOICES),
        ({"messages": [BODY["messages"][1]] * 5}, Refusal.TURNS),
    ],
)
def test_requests_of_other_kinds_are_not_asked_about(changes, expected):
    assert refusal({**BODY, **changes}) is expected
