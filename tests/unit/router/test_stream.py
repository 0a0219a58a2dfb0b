"""Streams in passing: what is taken out, what is noticed, and that chunk borders do not matter."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.entities.workload import Surface
from deployments.router.generation.stream import (
    _TAIL_BYTES_MAX,
    EventStream,
    Finish,
    has_begun,
    is_error,
    tokens_in,
    usage_of,
)

CHAT, COMPLETIONS = Surface.CHAT, Surface.COMPLETIONS
RESPONSES, MESSAGES = Surface.RESPONSES, Surface.MESSAGES

# A token whose text looks like the usage event, escaped as JSON escapes it.
TOKENS = (
    b'data: {"id":"c","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
    b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"\\"choices\\":[],\\"usage\\":{"}}]}\n\n'
    b'data: {"id":"c","choices":[{"index":0,"delta":{"content":" mill"},"finish_reason":"stop"}]}\n\n'
)
USAGE = (
    b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,'
    b'"prompt_tokens_details":{"cached_tokens":4}}}\n\n'
)
DONE = b"data: [DONE]\n\n"
CHAT_STREAM = TOKENS + USAGE + DONE
MESSAGE_STREAM = (
    b'event: message_start\ndata: {"type":"message_start",'
    b'"message":{"id":"m","usage":{"input_tokens":5}}}\n\n'
    b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"mill"}}\n\n'
    b'event: message_delta\ndata: {"type":"message_delta","usage":{"input_tokens":5,"output_tokens":2}}\n\n'
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
)
RESPONSE_STREAM = (
    b'event: response.created\ndata: {"type":"response.created","response":{"id":"r","usage":null}}\n\n'
    b'event: response.in_progress\ndata: {"type":"response.in_progress"}\n\n'
    b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"mill"}\n\n'
    b'event: response.completed\ndata: {"type":"response.completed","response":{"id":"r",'
    b'"usage":{"input_tokens":6,"input_tokens_details":{"cached_tokens":1},"output_tokens":4}}}\n\n'
)
WHOLE = {
    CHAT: CHAT_STREAM,
    COMPLETIONS: CHAT_STREAM.replace(b'"delta":{"content"', b'"text":{"content"'),
    MESSAGES: MESSAGE_STREAM,
    RESPONSES: RESPONSE_STREAM,
}


def run(chunks, surface=CHAT, *, drop_usage):
    events = EventStream(surface, drop_usage=drop_usage)
    out = b"".join(events.feed(chunk) for chunk in chunks)
    return out + events.rest(), events


@pytest.mark.parametrize("cut", range(len(CHAT_STREAM) + 1))
def test_the_usage_event_goes_wherever_the_stream_is_cut(cut):
    out, events = run([CHAT_STREAM[:cut], CHAT_STREAM[cut:]], drop_usage=True)
    assert out == TOKENS + DONE
    assert events.ended_well()
    assert tokens_in(events.usage()) == (7, 4, 3)


def test_it_goes_byte_by_byte_too():
    out, events = run([bytes([byte]) for byte in CHAT_STREAM], drop_usage=True)
    assert out == TOKENS + DONE
    assert tokens_in(events.usage()) == (7, 4, 3)


@given(cuts=st.sets(st.integers(0, len(CHAT_STREAM))), drop=st.booleans())
def test_any_cutting_gives_the_same_bytes(cuts, drop):
    borders = [0, *sorted(cuts), len(CHAT_STREAM)]
    chunks = [CHAT_STREAM[a:b] for a, b in pairwise(borders)]
    out, events = run(chunks, drop_usage=drop)
    assert out == (TOKENS + DONE if drop else CHAT_STREAM)
    assert events.ended_well()


@given(data=st.data())
def test_whole_events_are_relayed_byte_for_byte_as_they_come(data):
    surface = data.draw(st.sampled_from(sorted(WHOLE)))
    stream = WHOLE[surface]
    cuts = data.draw(st.sets(st.integers(0, len(stream))))
    borders = [0, *sorted(cuts), len(stream)]
    events = EventStream(surface, drop_usage=False)
    out = b""
    for begin, end in pairwise(borders):
        out += events.feed(stream[begin:end])
        assert out == stream[: stream.rfind(b"\n\n", 0, end) + 2 if b"\n\n" in stream[:end] else 0]
    assert out == stream
    assert events.ended_well()


def test_usage_beside_choices_is_not_taken_out():
    event = b'data: {"choices":[{"delta":{"content":"a"}}],"usage":{"prompt_tokens":1}}\n\n'
    out, _ = run([event, DONE], drop_usage=True)
    assert out == event + DONE


def test_tokens_are_not_held_back_while_waiting_for_the_usage_event():
    events = EventStream(CHAT, drop_usage=True)
    for token in TOKENS.split(b"\n\n")[:-1]:
        assert events.feed(token + b"\n\n") == token + b"\n\n"


@pytest.mark.parametrize("surface", sorted(WHOLE))
def test_a_stream_that_is_cut_off_did_not_end_well(surface):
    stream = WHOLE[surface]
    last_event_at = stream.rstrip().rindex(b"\n\n") + 2
    for cut in (0, 1, last_event_at, len(stream) // 2):
        _, events = run([stream[:cut]], surface, drop_usage=False)
        assert not events.ended_well(), stream[:cut]


def test_an_error_in_the_middle_is_not_a_good_end():
    for error in (b'data: {"error":{"message":"out of memory"}}\n\n', b'data: {"error": "x"}\n\n'):
        _, events = run([TOKENS, error, DONE], drop_usage=True)
        assert not events.ended_well()
    failed = RESPONSE_STREAM.replace(b"response.completed", b"response.failed")
    assert not run([failed], RESPONSES, drop_usage=False)[1].ended_well()


def test_an_answer_cut_at_its_bound_ended_well():
    cut = RESPONSE_STREAM.replace(b"response.completed", b"response.incomplete")
    assert run([cut], RESPONSES, drop_usage=False)[1].ended_well()


def test_a_broken_stream_that_talks_about_its_ending_has_not_ended():
    text = b'event: content_block_delta\ndata: {"delta":{"text":"say event: message_stop"}}\n\n'
    assert not run([text], MESSAGES, drop_usage=False)[1].ended_well()


@pytest.mark.parametrize(
    ("surface", "counts"),
    [(CHAT, (7, 4, 3)), (COMPLETIONS, (7, 4, 3)), (MESSAGES, (5, None, 2)), (RESPONSES, (6, 1, 4))],
)
def test_usage_is_read_on_every_surface(surface, counts):
    _, events = run([WHOLE[surface]], surface, drop_usage=False)
    assert tokens_in(events.usage()) == counts


def test_usage_is_still_found_after_a_long_stream_and_memory_stays_bounded():
    token = TOKENS.split(b"\n\n")[2] + b"\n\n"
    events = EventStream(CHAT, drop_usage=True)
    for _ in range(3 * _TAIL_BYTES_MAX // len(token)):
        events.feed(token)
        assert events._recent_bytes <= _TAIL_BYTES_MAX
        assert sum(map(len, events._recent)) == events._recent_bytes
    events.feed(USAGE + DONE)
    assert tokens_in(events.usage()) == (7, 4, 3)
    assert events.ended_well()


@pytest.mark.parametrize("chunk_bytes", [1000, 65_536, 262_144])
def test_a_last_event_that_repeats_a_long_answer_is_read_to_its_beginning(chunk_bytes):
    long = (
        b'"response":{"id":"r","incomplete_details":{"reason":"max_output_tokens"},'
        b'"output":"%b","usage":{' % (b"mill " * 200_000)
    )
    stream = RESPONSE_STREAM.replace(b"completed", b"incomplete")
    stream = stream.replace(b'"response":{"id":"r","usage":{', long)
    assert len(stream) > 3 * _TAIL_BYTES_MAX
    chunks = [stream[start : start + chunk_bytes] for start in range(0, len(stream), chunk_bytes)]
    out, events = run(chunks, RESPONSES, drop_usage=False)
    assert out == stream
    assert events.ended_well()
    assert events.finish() is Finish.CUT
    assert tokens_in(events.usage()) == (6, 1, 4)
    assert not run(chunks[:-1], RESPONSES, drop_usage=False)[1].ended_well()


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        (None, (None, None, None)),
        ({}, (None, None, None)),
        ({"prompt_tokens": 3, "prompt_tokens_details": None}, (3, None, None)),
        ({"prompt_tokens": "3", "completion_tokens": None}, (None, None, None)),
        ({"input_tokens": 3, "cache_read_input_tokens": 9, "output_tokens": 1}, (12, 9, 1)),
        ({"prompt_tokens": 3, "completion_tokens": 0}, (3, None, 0)),
    ],
)
def test_counts_of_a_usage_object(usage, counts):
    assert tokens_in(usage) == counts


def test_usage_of_whatever_an_engine_answers():
    assert usage_of({"usage": {"a": 1}}) == {"a": 1}
    assert usage_of({"response": {"usage": {"a": 1}}}) == {"a": 1}
    assert usage_of({"message": {"usage": {"a": 1}}}) == {"a": 1}
    others: list[Any] = [[], "text", 7, None, {"usage": None}, {"usage": []}, {"response": "x"}]
    for answer in others:
        assert usage_of(answer) is None


PREAMBLES = {
    MESSAGES: b"event: message_start\ndata: {}\n\nevent: ping\ndata: {}\n\n",
    RESPONSES: b"event: response.created\ndata: {}\n\nevent: response.in_progress\ndata: {}\n\n",
}


@pytest.mark.parametrize("surface", sorted(PREAMBLES))
def test_announcements_are_not_a_beginning(surface):
    announced = PREAMBLES[surface]
    assert not has_begun(announced)
    assert has_begun(announced + b"event: content_block_delta\ndata: {}\n\n")


def test_a_chat_stream_begins_with_its_first_event():
    assert not has_begun(b"")
    assert has_begun(TOKENS)


def test_a_preamble_without_end_begins_at_the_bound():
    assert has_begun(b"event: ping\n\n" * 200_000)


@pytest.mark.parametrize("surface", sorted(PREAMBLES))
def test_half_an_announcement_is_not_a_beginning(surface):
    announced = PREAMBLES[surface]
    assert [cut for cut in range(len(announced)) if has_begun(announced[:cut])] == []


@pytest.mark.parametrize(
    "first",
    [
        b'data: {"error":{"message":"no"}}\n\n',
        b'\n\ndata: {"error": "no"}\n\n',
        b'event: error\ndata: {"type":"error"}\n\n',
        b"event: response.failed\ndata: {}\n\n",
        PREAMBLES[MESSAGES] + b"event: error\ndata: {}\n\n",
        PREAMBLES[RESPONSES] + b"event: response.failed\ndata: {}\n\n",
    ],
)
def test_an_engine_that_begins_with_its_failure(first):
    assert has_begun(first)
    assert is_error(first)


@pytest.mark.parametrize(
    "first",
    [TOKENS, b'data: {"choices":[{"delta":{"content":"data: {\\"error\\""}}]}\n\n', b"event: ping\n\n"],
)
def test_tokens_are_no_failure(first):
    assert not is_error(first)
