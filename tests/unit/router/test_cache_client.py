"""Which answers are cached, under which key, and the id that a stored answer goes out with."""

from typing import Any

import orjson
import pytest

from cluster.entities.workload import Surface
from deployments.router.cache_client import is_cacheable, key_of, may_look_up, with_new_id

CHAT, COMPLETIONS = Surface.CHAT, Surface.COMPLETIONS
TURNS = [{"role": "user", "content": "hello"}]
BASE = {"model": "sim", "messages": TURNS, "temperature": 0}


@pytest.mark.parametrize(
    "changes",
    [
        {"user": "u"},
        {"metadata": {"trace": 1}},
        {"request_id": "r"},
        {"priority": 3},
        {"model": "auto"},
    ],
)
def test_what_does_not_shape_the_answer_is_not_in_the_key(parsed, changes):
    assert key_of(parsed(CHAT, {**BASE, **changes})) == key_of(parsed(CHAT, BASE))


def test_the_order_of_fields_and_the_spacing_do_not_matter(parsed):
    turned = dict(reversed(BASE.items()))
    spaced = orjson.dumps(turned, option=orjson.OPT_INDENT_2)
    assert key_of(parsed(CHAT, spaced)) == key_of(parsed(CHAT, BASE))


CHANGES: list[dict[str, Any]] = [
    {},
    {"stream": True},
    {"stream": True, "stream_options": {"include_usage": True}},
    {"max_tokens": 5},
    {"max_completion_tokens": 5},
    {"temperature": 0.5},
    {"seed": 1},
    {"seed": 2},
    {"stop": ["a"]},
    {"n": 2},
    {"tools": [{"type": "function"}]},
    {"logprobs": True},
    {"response_format": {"type": "json_object"}},
    {"an_unknown_field": 1},
    {"cache_salt": "x"},
    {"model": "other"},
    {"messages": [*TURNS, *TURNS]},
    {"messages": [{"role": "system", "content": "hello"}]},
    {"messages": [{"role": "user", "content": "hello "}]},
]


def test_another_policy_epoch_or_knowledge_version_is_another_key(parsed):
    request = parsed(CHAT, BASE)
    keys = [
        key_of(request),
        key_of(request, policy_epoch="2"),
        key_of(request, knowledge_version="2"),
        key_of(request, policy_epoch="2", knowledge_version="2"),
    ]
    assert len(set(keys)) == len(keys)


def test_everything_else_is_in_the_key(parsed):
    keys = [key_of(parsed(CHAT, {**BASE, **changes})) for changes in CHANGES]
    assert len(set(keys)) == len(CHANGES)


def test_surfaces_do_not_share_answers(parsed):
    keys = {key_of(parsed(surface, BASE)) for surface in (CHAT, Surface.MESSAGES, Surface.COUNT_TOKENS)}
    assert len(keys) == 3


def test_a_key_is_a_sha_256_in_hex(parsed):
    key = key_of(parsed(CHAT, BASE))
    assert len(bytes.fromhex(key)) == 32
    assert key == key.lower()


@pytest.mark.parametrize(
    ("surface", "fields", "headers", "cacheable"),
    [
        (CHAT, {}, {}, True),
        (CHAT, {"temperature": 0.0}, {}, True),
        (CHAT, {"temperature": 0, "stream": True}, {}, True),
        (CHAT, {"temperature": None}, {}, False),
        (CHAT, {"temperature": 0.7}, {}, False),
        (CHAT, {"temperature": 0.7}, {"x-tidemill-cache": "on"}, True),
        (CHAT, {"temperature": None}, {"x-tidemill-cache": "ON"}, True),
        (CHAT, {}, {"x-tidemill-cache": "off"}, False),
        (CHAT, {}, {"cache-control": "no-store"}, False),
        (CHAT, {}, {"cache-control": "max-age=0, No-Store"}, False),
        (CHAT, {}, {"cache-control": "no-store", "x-tidemill-cache": "on"}, False),
        (CHAT, {"tools": [{"type": "function"}]}, {}, False),
        (CHAT, {"tools": []}, {}, True),
        (CHAT, {"tools": [{"type": "function"}]}, {"x-tidemill-cache": "on"}, True),
        (Surface.RESPONSES, {"input": "a"}, {}, True),
        (Surface.RESPONSES, {"input": "a", "previous_response_id": "r"}, {"x-tidemill-cache": "on"}, False),
        (Surface.RESPONSES, {"input": "a", "background": True}, {"x-tidemill-cache": "on"}, False),
        (Surface.MESSAGES, {}, {}, True),
        (COMPLETIONS, {"prompt": "a"}, {}, True),
        (Surface.COUNT_TOKENS, {}, {"x-tidemill-cache": "on"}, False),
        (Surface.TOKENIZE, {"prompt": "a"}, {"x-tidemill-cache": "on"}, False),
    ],
)
def test_which_answers_are_cached(parsed, surface, fields, headers, cacheable):
    assert is_cacheable(parsed(surface, {**BASE, **fields}), headers) is cacheable


@pytest.mark.parametrize(
    ("control", "accepts"),
    [
        ("", True),
        ("max-age=60", True),
        ("no-cache", False),
        ("No-Cache", False),
        ("no-store", False),
        ("max-age=0, no-cache", False),
    ],
)
def test_whether_a_stored_answer_is_accepted(control, accepts):
    assert may_look_up({"cache-control": control} if control else {}) is accepts


@pytest.mark.parametrize("prefix", ["chatcmpl-", "cmpl-", "resp_", "msg_"])
@pytest.mark.parametrize("space", ["", " "])
def test_a_stored_answer_gets_an_id_of_its_own(prefix, space):
    event = f'data: {{"id":{space}"{prefix}old-1","text":"old-1"}}\n\n'
    given = with_new_id((event * 3).encode(), lambda: "new-2")
    assert given == event.replace(f"{prefix}old-1", f"{prefix}new-2").encode() * 3


def test_item_ids_that_derive_from_the_answers_id_follow_it():
    body = b'{"id":"resp_a","output":[{"id":"resp_a-0"}]}'
    assert with_new_id(body, lambda: "b") == b'{"id":"resp_b","output":[{"id":"resp_b-0"}]}'


@pytest.mark.parametrize(
    "body", [b"", b"{}", b'{"id":"call_1"}', b'{"id":7}', b"x" * 5000 + b'"id":"cmpl-a"']
)
def test_an_answer_without_such_an_id_stays_as_it_is(body):
    assert with_new_id(body, lambda: pytest.fail("no id is needed")) == body
