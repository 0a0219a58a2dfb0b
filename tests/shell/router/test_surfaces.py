"""Every surface through the router, streamed and not, with the official clients and with bare HTTP."""

from typing import Any

import anthropic
import openai
import orjson
import pytest

TURNS: Any = [{"role": "user", "content": "What turns a tide mill?"}]
BODIES: dict[str, Any] = {
    "/v1/chat/completions": {"model": "sim", "messages": TURNS},
    "/v1/completions": {"model": "sim", "prompt": "What turns a tide mill?"},
    "/v1/responses": {"model": "sim", "input": "What turns a tide mill?"},
    "/v1/messages": {"model": "sim", "messages": TURNS, "max_tokens": 8},
}


@pytest.fixture
async def client(cluster):
    async with openai.AsyncOpenAI(base_url=f"{cluster.url}/v1", api_key="k", max_retries=0) as client:
        yield client


@pytest.fixture
async def claude(cluster):
    async with anthropic.AsyncAnthropic(base_url=cluster.url, api_key="k", max_retries=0) as client:
        yield client


def without_ids(content):
    """An answer with everything that differs from one computation to the next taken out."""
    found = orjson.loads(content)
    return {k: v for k, v in found.items() if k not in {"id", "created", "created_at", "output"}}


@pytest.mark.parametrize("path", list(BODIES))
async def test_an_answer_is_that_of_the_engine(cluster, path):
    through = await cluster.post(path, BODIES[path])
    assert through.status == 200
    assert through.headers["content-type"] == "application/json"
    engine = cluster.engines["decode-0"].report.url
    async with cluster.http.post(engine + path, json=BODIES[path]) as direct:
        assert without_ids(through.content) == without_ids(await direct.read())


@pytest.mark.parametrize("path", list(BODIES))
async def test_a_stream_is_that_of_the_engine(cluster, path):
    body = {**BODIES[path], "stream": True}
    through = await cluster.post(path, body)
    assert through.status == 200
    assert through.headers["content-type"].startswith("text/event-stream")
    engine = cluster.engines["decode-0"].report.url
    async with cluster.http.post(engine + path, json=body) as direct:
        wanted = await direct.read()
    volatile = ("id", "created", "response", "message", "item", "item_id")

    def stable(content):
        lines = [line for line in content.split(b"\n") if line.startswith((b"event: ", b"data: "))]
        events = [orjson.loads(line[6:]) if line.startswith(b"data: {") else line for line in lines]
        return [
            {k: v for k, v in event.items() if k not in volatile} if isinstance(event, dict) else event
            for event in events
        ]

    assert stable(through.content) == stable(wanted)


@pytest.mark.parametrize("path", list(BODIES))
@pytest.mark.parametrize("stream", [False, True])
async def test_usage_reaches_the_record_on_every_surface(cluster, path, stream):
    answer = await cluster.post(path, {**BODIES[path], "stream": stream})
    record = await cluster.decision(answer)
    assert record["output_tokens"] == 8
    assert record["prompt_tokens"] > 0
    assert record["signals"]["stream"] is stream
    timeline = record["timeline"]
    assert timeline["arrived_at_s"] <= timeline["first_token_at_s"] <= timeline["ended_at_s"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_usage_is_shown_to_who_asked_and_to_nobody_else(cluster, path):
    silent = await cluster.post(path, {**BODIES[path], "stream": True})
    assert b"usage" not in silent.content
    assert silent.events[-1] == "[DONE]"
    options = {"stream_options": {"include_usage": True}}
    asked = await cluster.post(path, {**BODIES[path], "stream": True, **options})
    assert asked.events[-2]["usage"]["completion_tokens"] == 8
    assert asked.events[-2]["choices"] == []
    assert asked.events[-1] == "[DONE]"
    assert len(asked.events) == len(silent.events) + 1


async def test_tokens_arrive_one_by_one(start_cluster):
    cluster = await start_cluster({"pools": {"decode": {"engine": {"step_base_s": 0.03}}}})
    body = {**BODIES["/v1/chat/completions"], "stream": True}
    chunks = 0
    async with cluster.http.post(f"{cluster.url}/v1/chat/completions", json=body) as response:
        async for _ in response.content.iter_any():
            chunks += 1
    assert chunks >= 6


async def test_chat_through_the_openai_client(client):
    whole: Any = await client.chat.completions.create(model="sim", messages=TURNS, max_tokens=5)
    assert whole.usage.completion_tokens == 5
    stream = await client.chat.completions.create(
        model="sim", messages=TURNS, max_tokens=5, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage


async def test_completions_and_responses_through_the_openai_client(client):
    text = await client.completions.create(model="auto", prompt="a tide mill", max_tokens=4)
    assert (text.model, len(text.choices[0].text.split())) == ("sim", 4)
    response = await client.responses.create(model="sim", input="a tide mill", max_output_tokens=4)
    assert len(response.output_text.split()) == 4
    stream = await client.responses.create(model="sim", input="a tide mill", stream=True)
    events = [event async for event in stream]
    assert events[-1].type == "response.completed"
    assert events[-1].response.usage.output_tokens == 8


async def test_messages_through_the_anthropic_client(claude):
    whole = await claude.messages.create(model="sim", messages=TURNS, max_tokens=6)
    assert whole.usage.output_tokens == 6
    async with claude.messages.stream(model="sim", messages=TURNS, max_tokens=6) as stream:
        final = await stream.get_final_message()
    assert final.content[0].text == whole.content[0].text
    counted = await claude.messages.count_tokens(model="sim", messages=TURNS)
    assert counted.input_tokens == whole.usage.input_tokens


async def test_errors_have_the_shape_that_the_clients_know(client, claude):
    with pytest.raises(openai.NotFoundError, match="nobody") as missing:
        await client.chat.completions.create(model="nobody", messages=TURNS)
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as wrong:
        await client.chat.completions.create(model="sim", messages=[])
    assert wrong.value.param == "messages"
    with pytest.raises(anthropic.NotFoundError, match="nobody") as unknown:
        await claude.messages.create(model="nobody", messages=TURNS, max_tokens=3)
    body: Any = unknown.value.body
    assert body["error"]["type"] == "not_found_error"


async def test_what_the_engine_refuses_is_passed_on_as_it_said_it(cluster):
    answer = await cluster.chat("a", max_tokens=10**6)
    assert answer.status == 400
    assert answer.json["error"]["type"] == "BadRequestError"
    assert cluster.engine_requests == 1
    long = await cluster.chat("word " * 9000, stream=True)
    assert long.status == 400
    assert "maximum context length" in long.json["error"]["message"]
    await cluster.assert_idle()


async def test_models_by_name_and_alias(client, cluster):
    listed = {model.id: model async for model in client.models.list()}
    assert set(listed) == {"sim", "auto", "all-minilm-l6-v2"}
    assert (await client.models.retrieve("auto")).to_dict()["root"] == "sim"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("nobody")
    aliased = await cluster.post("/v1/chat/completions", {"model": "auto", "messages": TURNS})
    assert aliased.headers["x-tidemill-model"] == "sim"
    unnamed = await cluster.post("/v1/chat/completions", {"messages": TURNS})
    assert unnamed.json["model"] == "sim"


async def test_tokenize_and_back(cluster):
    tokens = await cluster.post("/tokenize", {"model": "sim", "prompt": "a tide mill"})
    assert (tokens.status, tokens.json["count"]) == (200, 3)
    assert tokens.headers["x-tidemill-replica"] in {"decode-0", "decode-1"}
    text = await cluster.post("/detokenize", {"model": "sim", "tokens": tokens.json["tokens"]})
    assert text.json == {"prompt": "a tide mill"}
    await cluster.assert_idle()


async def test_embeddings(start_cluster):
    cluster = await start_cluster(encoder=True)
    async with openai.AsyncOpenAI(base_url=f"{cluster.url}/v1", api_key="k", max_retries=0) as client:
        found = await client.embeddings.create(model="all-minilm-l6-v2", input=["a", "b"])
        assert [len(row.embedding) for row in found.data] == [384, 384]
        with pytest.raises(openai.NotFoundError):
            await client.embeddings.create(model="sim", input="a")
    broken = await cluster.post("/v1/embeddings", b"{")
    assert (broken.status, broken.json["error"]["code"]) == (400, "invalid_json")


async def test_embeddings_without_an_encoder_say_when_to_come_back(start_cluster):
    cluster = await start_cluster(cache=False)
    answer = await cluster.post("/v1/embeddings", {"model": "all-minilm-l6-v2", "input": "a"})
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert await cluster.metric('tidemill_rejected_total{reason="queue_timed_out"}') == 0, "nothing queued"


async def test_a_busy_encoder_says_when_to_come_back(cluster):
    answer = await cluster.post("/v1/embeddings", {"model": "all-minilm-l6-v2", "input": "a"})
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) >= 1
