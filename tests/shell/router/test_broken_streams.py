"""Engines that fail after the first token has gone out: the client is told, in its own API's words."""

from typing import Any

import anthropic
import openai
import orjson
import pytest

ALONE = {"pools": {"decode": {"replicas": {"min": 1, "max": 1}}}}
TURNS: Any = [{"role": "user", "content": "hello"}]
CHAT_EVENT = b'data: {"id":"chatcmpl-x","choices":[{"index":0,"delta":{"content":"tide"}}]}\n\n'
MESSAGE_EVENTS = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_x","type":"message",'
    b'"role":"assistant","content":[],"model":"sim","usage":{"input_tokens":1,"output_tokens":0}}}\n\n'
    b'event: content_block_start\ndata: {"type":"content_block_start","index":0,'
    b'"content_block":{"type":"text","text":""}}\n\n'
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
    b'"delta":{"type":"text_delta","text":"tide"}}\n\n'
)
RESPONSE_EVENTS = (
    b'event: response.created\ndata: {"type":"response.created","response":{"id":"resp_x"}}\n\n'
    b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"tide"}\n\n'
)
TEXT_EVENT = b'data: {"id":"cmpl-x","choices":[{"index":0,"text":"tide"}]}\n\n'
SURFACES: dict[str, Any] = {
    "/v1/chat/completions": ({"messages": TURNS}, CHAT_EVENT),
    "/v1/completions": ({"prompt": "a"}, TEXT_EVENT),
    "/v1/messages": ({"messages": TURNS, "max_tokens": 9}, MESSAGE_EVENTS),
    "/v1/responses": ({"input": "a"}, RESPONSE_EVENTS),
}


def last_event(content):
    """Name and data of the last event, as a strict reader of server-sent events sees it."""
    lines = content.rstrip(b"\n").split(b"\n\n")[-1].split(b"\n")
    fields = [line.partition(b": ")[::2] for line in lines]
    data = b"\n".join(value for name, value in fields if name == b"data")
    return dict(fields).get(b"event", b"").decode(), orjson.loads(data)


def assert_told(path, answer):
    assert answer.status == 200
    assert b"tide" in answer.content
    assert b"[DONE]" not in answer.content
    assert b"message_stop" not in answer.content
    name, data = last_event(answer.content)
    assert data["error"]["message"].startswith("The engine failed in the middle of the answer")
    if path == "/v1/messages":
        assert (name, data["type"]) == ("error", "error")
    else:
        assert data["error"]["code"] == "engine_failed"


@pytest.mark.parametrize("then", ["break", "end"])
@pytest.mark.parametrize("path", list(SURFACES))
async def test_the_client_is_told_that_the_stream_broke(start_cluster, given, path, then):
    body, events = SURFACES[path]
    cluster = await start_cluster(ALONE, stand_ins={"decode-0": given.engine_that(events, then=then)})
    answer = await cluster.post(path, {"model": "sim", **body, "stream": True})
    assert_told(path, answer)
    record = await cluster.decision(answer)
    assert [attempt["outcome"] for attempt in record["attempts"]] == ["broken"]
    assert record["status"] == 200
    assert "middle of the answer" in record["error"]
    assert cluster.engine_requests == 1
    await cluster.assert_idle()


async def test_it_is_told_to_who_asked_for_usage_as_well(start_cluster, given):
    cluster = await start_cluster(ALONE, stand_ins={"decode-0": given.engine_that(CHAT_EVENT, then="break")})
    answer = await cluster.chat(stream=True, stream_options={"include_usage": True})
    assert_told("/v1/chat/completions", answer)


@pytest.mark.parametrize(
    ("path", "options"),
    [
        ("/v1/chat/completions", {}),
        ("/v1/completions", {}),
        ("/v1/chat/completions", {"stream_options": {"include_usage": True}}),
        ("/v1/messages", {}),
        ("/v1/responses", {}),
    ],
)
async def test_the_error_can_be_read_after_half_an_event(start_cluster, given, path, options):
    body, events = SURFACES[path]
    broken = given.engine_that(events, events[: len(events) - 9], then="break")
    cluster = await start_cluster(ALONE, stand_ins={"decode-0": broken})
    answer = await cluster.post(path, {"model": "sim", **body, **options, "stream": True})
    assert_told(path, answer)


async def test_half_an_event_does_not_hide_the_error_from_the_official_client(start_cluster, given):
    broken = given.engine_that(CHAT_EVENT, CHAT_EVENT[: len(CHAT_EVENT) - 9], then="break")
    cluster = await start_cluster(ALONE, stand_ins={"decode-0": broken})
    async with openai.AsyncOpenAI(base_url=f"{cluster.url}/v1", api_key="k", max_retries=0) as client:
        stream: Any = await client.chat.completions.create(
            model="sim", messages=TURNS, stream=True, stream_options={"include_usage": True}
        )
        chunks = aiter(stream)
        assert (await anext(chunks)).choices[0].delta.content == "tide"
        with pytest.raises(openai.APIError, match="middle of the answer"):
            await anext(chunks)


async def test_the_official_clients_raise(start_cluster, given):
    cluster = await start_cluster(ALONE, stand_ins={"decode-0": given.engine_that(CHAT_EVENT, then="break")})
    async with openai.AsyncOpenAI(base_url=f"{cluster.url}/v1", api_key="k", max_retries=0) as client:
        stream: Any = await client.chat.completions.create(model="sim", messages=TURNS, stream=True)
        chunks = aiter(stream)
        assert (await anext(chunks)).choices[0].delta.content == "tide"
        with pytest.raises(openai.APIError, match="middle of the answer"):
            await anext(chunks)


async def test_the_anthropic_client_raises(start_cluster, given):
    broken = given.engine_that(MESSAGE_EVENTS, then="break")
    cluster = await start_cluster(ALONE, stand_ins={"decode-0": broken})
    async with (
        anthropic.AsyncAnthropic(base_url=cluster.url, api_key="k", max_retries=0) as client,
        client.messages.stream(model="sim", messages=TURNS, max_tokens=9) as stream,
    ):
        with pytest.raises(anthropic.APIStatusError, match="middle of the answer"):
            await stream.get_final_message()


async def test_a_broken_answer_is_not_cached(start_cluster, given):
    cluster = await start_cluster(ALONE, stand_ins={"decode-0": given.engine_that(CHAT_EVENT, then="end")})
    cluster.remove("prefill-0")
    for _ in range(2):
        answer = await cluster.chat(stream=True, temperature=0)
        assert answer.headers["x-tidemill-cache"] == "miss"
        await cluster.until(lambda: cluster.idle)
    assert cluster.engine_requests == 2


async def test_an_engine_that_hangs_in_the_middle_is_given_up_in_time(start_cluster, given):
    cluster = await start_cluster(
        {**ALONE, "gateway": {"request_timeout_s": 0.3}},
        stand_ins={"decode-0": given.engine_that(CHAT_EVENT, then="hang")},
    )
    answer = await cluster.chat(stream=True)
    assert (answer.status, answer.events[0]["choices"][0]["delta"]["content"]) == (200, "tide")
    _, data = last_event(answer.content)
    assert data["error"]["code"] == "timeout"
    assert b"[DONE]" not in answer.content
    await cluster.assert_idle()
