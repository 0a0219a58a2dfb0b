"""What answers show of their own quality, on every surface, streamed or not; and who asks the same again."""

import orjson
import pytest

from cluster.config.model_learning import AutomaticSignalsConfig
from cluster.entities.workload import Surface
from deployments.router.generation.automatic import answer_text, rewards_of
from deployments.router.generation.relay import Relayed
from deployments.router.generation.stream import EventStream, Finish, finish_of
from deployments.router.models.retry_memory import RetryMemory

WEIGHTS = AutomaticSignalsConfig(cut_weight=0.25, refused_weight=0.75, left_weight=0.5, format_weight=1.0)
TALK = {"model": "sim", "messages": [{"role": "user", "content": "hi"}]}


def chat(parsed, **fields):
    return parsed(Surface.CHAT, {**TALK, **fields})


def answered(text, **fields):
    body = orjson.dumps({"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]})
    return Relayed(cacheable_body=body, **fields)


def rewards(request, relayed, config=WEIGHTS, *, left=False):
    return dict(rewards_of(request, relayed, config, left=left))


@pytest.mark.parametrize(
    ("finish", "expected"),
    [(Finish.WHOLE, {}), (Finish.CUT, {"cut": 0.75}), (Finish.REFUSED, {"refused": 0.25})],
)
def test_how_an_answer_ended(parsed, finish, expected):
    assert rewards(chat(parsed), answered("so", finish=finish)) == expected


def test_a_client_that_leaves_says_only_that(parsed):
    request = chat(parsed, response_format={"type": "json_object"})
    assert rewards(request, answered("{", finish=Finish.CUT), left=True) == {"left": 0.5}


def test_signals_without_weight_are_not_given(parsed):
    off = AutomaticSignalsConfig(cut_weight=0, refused_weight=0, left_weight=0, format_weight=0)
    request = chat(parsed, response_format={"type": "json_object"})
    for finish in Finish:
        assert rewards(request, answered("nonsense", finish=finish), off) == {}
    assert rewards(request, answered("nonsense"), off, left=True) == {}


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


@pytest.mark.parametrize(
    ("wanted", "text", "valid"),
    [
        ({"type": "json_object"}, '{"a": 1}', True),
        ({"type": "json_object"}, "[1]", False),
        ({"type": "json_object"}, "Sure! {}", False),
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}, '{"a": 1}', True),
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}, '{"b": 1}', False),
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array"}}}, "[1]", True),
        ({"type": "json_schema"}, "1", True),
        ({"type": "json_object"}, "", False),
    ],
)
def test_whether_json_is_what_was_asked_for(parsed, wanted, text, valid):
    request = chat(parsed, response_format=wanted)
    assert rewards(request, answered(text)) == {"format": float(valid)}


def test_plain_text_has_no_format(parsed):
    assert rewards(chat(parsed, response_format={"type": "text"}), answered("x")) == {}
    assert rewards(chat(parsed), answered("x")) == {}


def stream_of(*events):
    return b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in events)


STREAMS = {
    Surface.CHAT: (
        stream_of(
            {"choices": [{"delta": {"role": "assistant", "content": ""}}]},
            {"choices": [{"delta": {"content": "to"}}]},
            {"choices": [{"delta": {"content": "gether"}, "finish_reason": "length"}]},
            {"choices": [], "usage": {"prompt_tokens": 1}},
        )
        + b"data: [DONE]\n\n"
    ),
    Surface.COMPLETIONS: (
        stream_of(
            {"choices": [{"text": "to", "finish_reason": None}]},
            {"choices": [{"text": "gether", "finish_reason": "length"}]},
        )
        + b"data: [DONE]\n\n"
    ),
    Surface.MESSAGES: stream_of(
        {"type": "message_start", "message": {"content": [], "stop_reason": None}},
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "to"}},
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "gether"}},
        {"type": "message_delta", "delta": {"stop_reason": "max_tokens"}},
    ),
    Surface.RESPONSES: stream_of(
        {"type": "response.output_text.delta", "delta": "to"},
        {"type": "response.output_text.delta", "delta": "gether"},
        {"type": "response.incomplete", "response": {"incomplete_details": {"reason": "max_output_tokens"}}},
    ),
}
WHOLE = {
    Surface.CHAT: {"choices": [{"message": {"content": "together"}, "finish_reason": "length"}]},
    Surface.COMPLETIONS: {"choices": [{"text": "together", "finish_reason": "length"}]},
    Surface.MESSAGES: {"content": [{"type": "text", "text": "together"}], "stop_reason": "max_tokens"},
    Surface.RESPONSES: {
        "output": [{"type": "message", "content": [{"type": "output_text", "text": "together"}]}],
        "incomplete_details": {"reason": "max_output_tokens"},
    },
}


@pytest.mark.parametrize("surface", list(STREAMS))
def test_text_and_ending_of_every_surface(surface):
    assert answer_text(STREAMS[surface], surface, streamed=True) == "together"
    assert answer_text(orjson.dumps(WHOLE[surface]), surface, streamed=False) == "together"
    assert finish_of(WHOLE[surface]) is Finish.CUT
    events = EventStream(surface, drop_usage=False)
    events.feed(STREAMS[surface])
    assert events.finish() is Finish.CUT


def test_an_answer_that_quotes_an_ending_does_not_end_so():
    events = EventStream(Surface.CHAT, drop_usage=False)
    said = '{"finish_reason":"length"}'
    events.feed(stream_of({"choices": [{"delta": {"content": said}, "finish_reason": "stop"}]}))
    assert events.finish() is Finish.WHOLE
    assert finish_of({"choices": [{"message": {"content": said}, "finish_reason": "stop"}]}) is Finish.WHOLE


@pytest.mark.parametrize("odd", [b"", b"[]", b"{", b'{"choices": []}', b'{"choices": [{"message": null}]}'])
def test_odd_answers_have_no_text(odd):
    assert answer_text(odd, Surface.CHAT, streamed=False) == ""
    assert answer_text(b"data: " + odd + b"\n\n", Surface.CHAT, streamed=True) == ""


def test_the_same_words_of_the_same_tenant_within_the_window_are_a_retry():
    memory = RetryMemory(AutomaticSignalsConfig(retry_window_s=10, retry_memory_max=2))
    assert memory.earlier("t", "why?", "d-1", now_s=0) is None
    assert memory.earlier("t", "why?", "d-2", now_s=9) == "d-1"
    assert memory.earlier("t", "why?", "d-3", now_s=20) is None, "the window is over"
    assert memory.earlier("other", "why?", "d-4", now_s=21) is None
    assert memory.earlier("t", "else", "d-5", now_s=21) is None
    assert memory.earlier("t", "why?", "d-6", now_s=21) is None, "forgotten, to make room"
    assert memory.earlier("t", "", "d-7", now_s=21) is None
    assert memory.earlier("t", "", "d-8", now_s=21) is None


def test_without_weight_nothing_is_remembered():
    memory = RetryMemory(AutomaticSignalsConfig(retry_weight=0))
    assert memory.earlier("t", "why?", "d-1", now_s=0) is None
    assert memory.earlier("t", "why?", "d-2", now_s=1) is None
