"""What is read of answers, and the same answer told whole or as a stream."""

import json

import pytest

from cluster.entities.workload import Surface
from deployments.router.generation.answer_form import in_form
from deployments.semantic_cache.answers import normalised, read_answer

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
SSE, JSON = "text/event-stream; charset=utf-8", "application/json"


def whole(surface, finish="stop", **message):
    said = {"message": {"role": "assistant", "content": "High tide", **message}}
    content = said if surface is Surface.CHAT else {"text": "High tide"}
    kind = "chat.completion" if surface is Surface.CHAT else "text_completion"
    choice = {"index": 0, **content, "logprobs": None, "finish_reason": finish}
    body = {
        "id": "chatcmpl-1",
        "created": 7,
        "model": "m",
        "object": kind,
        "choices": [choice],
        "usage": USAGE,
    }
    return json.dumps(body).encode()


def stream(*events, done=True):
    lines = [b"data: " + json.dumps(event).encode() + b"\n\n" for event in events]
    return b"".join(lines) + (b"data: [DONE]\n\n" if done else b"")


def chunk(finish=None, **delta):
    return {"id": "chatcmpl-1", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


RESPONSE = {
    "object": "response",
    "status": "completed",
    "output": [{"type": "message", "content": [{"type": "output_text", "text": "High tide"}]}],
    "usage": {"output_tokens": 2},
}
MESSAGE = {
    "type": "message",
    "content": [{"type": "text", "text": "High tide"}],
    "stop_reason": "end_turn",
    "usage": {"output_tokens": 2},
}
ANSWERS = {
    "chat": (whole(Surface.CHAT), JSON),
    "completion": (whole(Surface.COMPLETIONS), JSON),
    "response": (json.dumps(RESPONSE).encode(), JSON),
    "message": (json.dumps(MESSAGE).encode(), JSON),
    "chat stream": (
        stream(chunk(role="assistant", content=""), chunk(content="High "), chunk(content="tide"),
               chunk("stop"), {"choices": [], "usage": USAGE}),
        SSE,
    ),
    "response stream": (
        stream(
            {"type": "response.output_text.delta", "delta": "High tide"},
            {"type": "response.completed",
             "response": {"status": "completed", "usage": {"output_tokens": 2}}},
        ),
        SSE,
    ),
    "message stream": (
        stream(
            {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "High tide"}},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}},
        ),
        SSE,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
def test_every_surface_is_read(name):
    facts = read_answer(*ANSWERS[name])
    assert (facts.text, facts.output_tokens, facts.may_be_shared) == ("High tide", 2, True)


@pytest.mark.parametrize(
    "body",
    [
        whole(Surface.CHAT, finish="length"),
        whole(Surface.CHAT, finish=None),
        whole(Surface.CHAT, tool_calls=[{"id": "1"}]),
        whole(Surface.CHAT, content=" "),
        json.dumps({**MESSAGE, "content": [*MESSAGE["content"], {"type": "tool_use"}]}).encode(),
        json.dumps({**RESPONSE, "status": "incomplete"}).encode(),
    ],
)
def test_half_answers_and_those_that_act_are_not_shared(body):
    assert not read_answer(body, JSON).may_be_shared


@pytest.mark.parametrize(("body", "kind"), [(b"{", JSON), (b'{"error": {}}', JSON), (b"data: {\n\n", SSE)])
def test_what_is_no_answer_is_not_read(body, kind):
    assert read_answer(body, kind) is None


def test_case_space_and_final_marks_say_nothing():
    assert normalised(" High\n tide.") == normalised("high tide") != normalised("low tide")


@pytest.mark.parametrize("surface", [Surface.CHAT, Surface.COMPLETIONS])
def test_a_stream_is_the_same_answer_and_back(surface):
    events, kind = in_form(whole(surface), JSON, surface=surface, stream=True, usage=True)
    assert kind.startswith("text/event-stream")
    assert events.endswith(b"data: [DONE]\n\n")
    assert read_answer(events, kind) == read_answer(whole(surface), JSON)
    back, kind = in_form(events, kind, surface=surface, stream=False, usage=False)
    assert (json.loads(back), kind) == (json.loads(whole(surface)), JSON)


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("wanted", [True, False])
def test_usage_is_told_to_who_asked_for_it(stored, wanted):
    events, kind = in_form(whole(Surface.CHAT), JSON, surface=Surface.CHAT, stream=True, usage=stored)
    told, _ = in_form(events, kind, surface=Surface.CHAT, stream=True, usage=wanted)
    assert (b'"usage":{' in told) == (stored and wanted)


def test_what_cannot_be_translated_is_not():
    two = [
        {"choices": [{"index": place, "delta": {"content": "x"}, "finish_reason": "stop"}]}
        for place in (0, 1)
    ]
    assert in_form(stream(*two), SSE, surface=Surface.CHAT, stream=False, usage=False) is None
    half = stream(chunk(content="x"))
    assert in_form(half, SSE, surface=Surface.CHAT, stream=False, usage=False) is None
    message = ANSWERS["message"]
    assert in_form(*message, surface=Surface.MESSAGES, stream=True, usage=False) is None
    assert in_form(*message, surface=Surface.MESSAGES, stream=False, usage=False) == message
