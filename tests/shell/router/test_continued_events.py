"""Streams of responses and messages whose replica dies: each event comes once, and all of them do."""

import asyncio
from typing import Any

import anthropic
import openai
import orjson
import pytest

from deployments.messages import ToldTokens

PATHS = ["/v1/responses", "/v1/messages"]
DELTAS = {"response.output_text.delta", "content_block_delta"}
TURNS: Any = [{"role": "user", "content": "hello"}]
TOOL: Any = {"type": "function", "name": "f", "parameters": {"type": "object"}}


def body(path: str, tokens: int = 12, **fields: Any) -> dict[str, Any]:
    named: dict[str, Any] = {"input": "hello", "max_output_tokens": tokens}
    if path == "/v1/messages":
        named = {"messages": TURNS, "max_tokens": tokens}
    return {"model": "sim", "stream": True, **named, **fields}


def events(answer: Any) -> list[dict[str, Any]]:
    found = []
    for event in answer.content.decode().split("\n\n")[:-1]:
        kind, data = event.split("\n")
        found.append(orjson.loads(data.removeprefix("data: ")))
        assert kind == f"event: {found[-1]['type']}"
    return found


def told(answer: Any) -> list[Any]:
    """What the client is told, in order: pieces of text joined, names of things replaced by what they are."""
    text, found, names = "", [], {}
    heard = events(answer)
    numbers = [event["sequence_number"] for event in heard if "sequence_number" in event]
    assert numbers == list(range(len(numbers)))
    for event in heard:
        if event["type"] in DELTAS:
            delta = event["delta"]
            text += delta if isinstance(delta, str) else delta["text"]
            event |= {"delta": None, "sequence_number": None}
            if found and found[-1] == event:
                continue
        elif "sequence_number" in event:
            event["sequence_number"] = None
        for holder in (event, event.get("response"), event.get("message")):
            for name in ("item_id", "id", "created_at"):
                if holder and holder.get(name):
                    holder[name] = names.setdefault(holder[name], name)
        found.append(event)
    written = orjson.dumps(found).decode()
    for name, kind in names.items():
        written = written.replace(str(name), kind)
    return [text, orjson.loads(written)]


@pytest.mark.parametrize("path", PATHS)
async def test_wherever_it_breaks_the_client_reads_a_whole_answer(dying, path):
    cluster, (first, second) = dying
    whole = await cluster.post(path, body(path))
    assert b"tidemill" not in whole.content
    for cut in range(0, len(whole.content) + 900, 83):  # the engine tells ids as well
        first.bytes_left = second.bytes_left = cut
        first.deaths, second.deaths = 1, 0
        answer = await cluster.post(path, body(path))
        assert answer.status == 200
        assert told(answer) == told(whole), cut
        assert b"tidemill" not in answer.content
        first.deaths = 0
        await cluster.until(lambda: cluster.idle)


@pytest.mark.parametrize("path", PATHS)
async def test_it_may_happen_again_and_tokens_are_counted_once(dying, path):
    cluster, (first, second) = dying
    whole = await cluster.post(path, body(path, 30))
    first.bytes_left, second.bytes_left, first.deaths, second.deaths = 3500, 1200, 1, 1
    answer = await cluster.post(path, body(path, 30))
    assert told(answer) == told(whole)
    assert (first.deaths, second.deaths) == (0, 0)
    record, undisturbed = await cluster.decision(answer), await cluster.decision(whole)
    outcomes = [attempt["outcome"] for attempt in record["attempts"]]
    assert outcomes == ["broken", "broken", "answered"]
    for name in ("status", "error", "output_tokens", "prompt_tokens"):
        assert record[name] == undisturbed[name]
    await cluster.assert_idle()


@pytest.mark.parametrize("path", PATHS)
async def test_the_next_replica_gets_what_was_said_and_how_to_choose(dying, path):
    cluster, (first, second) = dying
    first.bytes_left, first.deaths = 3000, 1
    stop = {"stop_sequences": ["~"]} if path == "/v1/messages" else {"stop": "~", "seed": 4}
    fields = {"temperature": 0, "top_k": 3, "system": "x", "metadata": {"a": "b"}, **stop}
    answer = await cluster.post(path, body(path, 20, **fields))
    assert answer.status == 200
    assert b'"code":"engine_failed"' not in answer.content
    (asked,) = [sent for sent in second.asked if "prompt" in sent]
    said = sum(50_000 <= token < 50_256 for token in asked["prompt"])
    assert 0 < said < 20
    assert (asked["max_tokens"], asked["stop"]) == (20 - said, ["~"])
    assert (asked["temperature"], asked["top_k"], asked["model"]) == (0, 3, "sim")
    assert asked.get("seed") == (4 if path == "/v1/responses" else None)
    forbidden = {"messages", "input", "system", "metadata", "max_output_tokens", "stop_sequences"}
    assert not forbidden & set(asked)


@pytest.mark.parametrize("path", PATHS)
async def test_what_the_engine_says_when_it_dies_is_not_for_the_client(dying, path):
    cluster, (first, _) = dying
    whole = await cluster.post(path, body(path, 20))
    first.bytes_left, first.deaths = 3000, 1
    first.parting = b'event: error\ndata: {"type":"error","error":{"message":"EngineCore died"}}\n\n'
    answer = await cluster.post(path, body(path, 20))
    assert first.deaths == 0
    assert b"EngineCore" not in answer.content
    assert told(answer) == told(whole)


@pytest.mark.parametrize("path", PATHS)
async def test_an_answer_that_the_engine_breaks_off_is_gone_on_with(dying, path):
    cluster, (first, _) = dying
    whole = await cluster.post(path, body(path, 20))
    first.bytes_left, first.deaths, first.quietly = 3000, 1, True
    end = "message_stop" if path == "/v1/messages" else "response.completed"
    lost = ToldTokens(made=(1, 2), chars=5, finish="abort").comment()
    first.parting = lost + f'event: {end}\ndata: {{"type":"{end}","lost":1}}\n\n'.encode()
    answer = await cluster.post(path, body(path, 20))
    assert first.deaths == 0
    assert b"lost" not in answer.content
    assert told(answer) == told(whole)


@pytest.mark.parametrize(
    ("path", "why", "fields"),
    [
        ("/v1/responses", "tools", {"tools": [TOOL]}),
        ("/v1/responses", "logprobs", {"include": ["message.output_text.logprobs"]}),
        ("/v1/responses", "grammar", {"text": {"format": {"type": "json_object"}}}),
        ("/v1/responses", "surface", {"previous_response_id": "resp_1"}),
        ("/v1/responses", "ids", {"enable_response_messages": True}),
        ("/v1/responses", "not_text", {"input": [{"role": "user", "content": [{"type": "input_image"}]}]}),
        ("/v1/responses", "not_text", {"input": [{"type": "function_call_output", "output": "1"}]}),
        ("/v1/messages", "tools", {"tools": [TOOL]}),
        ("/v1/messages", "grammar", {"output_config": {"format": {"type": "json_schema", "schema": {}}}}),
        ("/v1/messages", "counted_output", {"thinking": {"type": "enabled", "budget_tokens": 1024}}),
        ("/v1/messages", "not_text", {"messages": [{"role": "user", "content": [{"type": "image"}]}]}),
    ],
)
async def test_what_cannot_be_continued_ends_with_an_error_that_says_why(dying, path, why, fields):
    cluster, (first, _) = dying
    first.bytes_left, first.deaths = 2000, 1
    answer = await cluster.post(path, body(path, 30, **fields))
    assert first.deaths == 0
    assert f"No other replica goes on with it ({why})" in answer.content.decode()
    record = await cluster.decision(answer)
    assert "not_continued" in record["reasons"]
    assert len(record["attempts"]) == 1


async def test_an_engine_that_tells_no_tokens_is_not_continued(start_cluster, given):
    """An engine that has not heard of the header, or loses it on the way."""
    start = b'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":1}}}\n\n'
    block = b'event: content_block_start\ndata: {"type":"content_block_start","index":0,"content_block":{"type":"text"}}\n\n'  # noqa: E501
    cluster = await start_cluster(
        {"semantic_cache": {"enabled": False}},
        stand_ins={"decode-0": given.engine_that(start, block, then="break")},
        draw=0.0,
    )
    answer = await cluster.post("/v1/messages", body("/v1/messages"))
    assert "(ids)" in answer.content.decode()


async def test_announcements_without_an_item_are_not_gone_on_with(start_cluster, given):
    """They repeat the instructions: so long that the router does not hold them back until there is more."""
    response = {"id": "r", "status": "in_progress", "instructions": "x" * 600_000}
    told = b': tidemill-tokens {"prompt":[7]}\n\n'
    announced = [
        b"event: %b\ndata: %b\n\n"
        % (kind.encode(), orjson.dumps({"type": kind, "sequence_number": number, "response": response}))
        for number, kind in enumerate(("response.created", "response.in_progress"))
    ]
    cluster = await start_cluster(
        {"semantic_cache": {"enabled": False}},
        stand_ins={"decode-0": given.engine_that(told, *announced, then="break")},
        draw=0.0,
    )
    answer = await cluster.post("/v1/responses", body("/v1/responses"))
    assert "(not_text)" in answer.content.decode()[-400:]


async def test_the_official_clients_read_on(dying):
    cluster, (first, _) = dying
    url = cluster.url

    async def message() -> tuple[str, int]:
        async with anthropic.AsyncAnthropic(base_url=url, api_key="k", max_retries=0) as client:
            async with client.messages.stream(model="sim", messages=TURNS, max_tokens=25) as stream:
                final = await stream.get_final_message()
            block: Any = final.content[0]
            return block.text, final.usage.output_tokens

    async def response() -> tuple[str, int]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as client:
            async with client.responses.stream(model="sim", input="hello", max_output_tokens=25) as stream:
                final = await stream.get_final_response()
            assert final.usage is not None
            return final.output_text, final.usage.output_tokens

    for ask in (message, response):
        whole = await ask()
        first.bytes_left, first.deaths = 4000, 1
        assert await asyncio.wait_for(ask(), 5) == whole
        assert first.deaths == 0
