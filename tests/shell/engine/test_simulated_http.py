"""The simulated engine's HTTP surface, through the official clients and through bare requests."""

import asyncio
from typing import Any

import aiohttp
import anthropic
import openai
import pytest

from cluster.config.pools import SimulatedEngine
from cluster.entities.pool import Role
from deployments.engine.simulated import SimulatedApp, SimulatedLimits
from deployments.engine.simulated_server import SimulatedServer
from deployments.http_port import HttpPort

FAST = SimulatedEngine(prefill_tokens_per_s=1e9, step_base_s=0, step_per_sequence_s=0, max_model_len=500)
MESSAGES: Any = [{"role": "user", "content": "What turns a tide mill?"}]


async def serve(config=FAST, role=Role.COMBINED, **limits):
    app = SimulatedApp(config, model="sim", role=role, limits=SimulatedLimits(**limits))
    port = HttpPort(app.app, host="127.0.0.1")
    await port.start()
    return port


@pytest.fixture
async def engine():
    port = await serve()
    yield port
    await port.stop(grace_s=0.2)


@pytest.fixture
async def http():
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def client(engine):
    async with openai.AsyncOpenAI(base_url=f"{engine.url}/v1", api_key="x", max_retries=0) as client:
        yield client


async def post(http, url, **body):
    async with http.post(url, json=body) as got:
        return got.status, await got.json()


async def test_chat_streams_the_text_of_the_whole_answer_with_correct_usage(client):
    whole = await client.chat.completions.create(model="sim", messages=MESSAGES, max_tokens=9)
    stream = await client.chat.completions.create(
        model="sim", messages=MESSAGES, max_tokens=9, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert len(text.split()) == 9
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason == "length"
    content = f"user: {MESSAGES[0]['content']}"
    for usage in (whole.usage, chunks[-1].usage):
        assert usage.prompt_tokens == -(-len(content) // 4)
        assert usage.completion_tokens == 9
        assert usage.total_tokens == usage.prompt_tokens + 9


async def test_usage_is_streamed_only_when_asked_for(client):
    stream = await client.chat.completions.create(model="sim", messages=MESSAGES, max_tokens=2, stream=True)
    chunks = [chunk async for chunk in stream]
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


async def test_equal_prompts_get_equal_text_from_every_replica(client):
    other = await serve()
    async with openai.AsyncOpenAI(base_url=f"{other.url}/v1", api_key="x") as second:
        texts = [
            (await one.completions.create(model="sim", prompt=prompt, max_tokens=20)).choices[0].text
            for one in (client, second)
            for prompt in ("ebb", "flow")
        ]
    await other.stop(grace_s=0.2)
    assert texts[:2] == texts[2:]
    assert texts[0] != texts[1]


async def test_every_prompt_gets_n_choices(client):
    whole = await client.completions.create(model="sim", prompt=["a", "b"], n=2, max_tokens=5)
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
    assert whole.usage.completion_tokens == 20
    texts = dict.fromkeys(range(4), "")
    async for chunk in await client.completions.create(
        model="sim", prompt=["a", "b"], n=2, max_tokens=5, stream=True
    ):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert list(texts.values()) == [choice.text for choice in whole.choices]


async def test_responses_in_both_forms(client):
    whole = await client.responses.create(model="sim", input="tide", max_output_tokens=6)
    assert len(whole.output_text.split()) == whole.usage.output_tokens == 6
    deltas = []
    last: Any = None
    async for last in await client.responses.create(
        model="sim", input="tide", max_output_tokens=6, stream=True
    ):
        if last.type == "response.output_text.delta":
            deltas.append(last.delta)
        if last.type == "response.content_part.added":
            assert last.part.logprobs == [], "vLLM begins with an empty list and ends with null"
        if last.type == "response.content_part.done":
            assert last.part.logprobs is None
    assert last.type == "response.completed"
    assert "".join(deltas) == last.response.output_text == whole.output_text


async def test_messages_in_both_forms(engine):
    async with anthropic.AsyncAnthropic(base_url=engine.url, api_key="x", max_retries=0) as client:
        asked: Any = {"model": "sim", "max_tokens": 6, "messages": MESSAGES, "system": "be brief"}
        whole = await client.messages.create(**asked)
        async with client.messages.stream(**asked) as stream:
            text = "".join([part async for part in stream.text_stream])
            final = await stream.get_final_message()
        counted = await client.messages.count_tokens(model="sim", messages=MESSAGES, system="be brief")
    assert text == whole.content[0].text
    assert final.stop_reason == whole.stop_reason == "max_tokens"
    assert final.usage.output_tokens == 6
    assert whole.usage.input_tokens == counted.input_tokens


@pytest.mark.parametrize(
    ("body", "status", "kind", "param"),
    [
        ({"prompt": "a" * 2001}, 400, "BadRequestError", "input_tokens"),
        ({"prompt": "a", "max_tokens": 501}, 400, "BadRequestError", "max_tokens"),
        ({"prompt": "a", "max_tokens": 0}, 400, "BadRequestError", "max_tokens"),
        ({"prompt": "a", "n": 1000}, 400, "BadRequestError", "n"),
        ({"prompt": {}}, 400, "BadRequestError", "prompt"),
        ({"prompt": "a", "model": "other"}, 404, "NotFoundError", "model"),
    ],
)
async def test_a_wrong_request_gets_vllms_error_body(engine, http, body, status, kind, param):
    got_status, got = await post(http, f"{engine.url}/v1/completions", **body)
    assert got_status == status
    assert (got["error"]["type"], got["error"]["param"], got["error"]["code"]) == (kind, param, status)
    assert got["error"]["message"]


@pytest.mark.parametrize("raw", [b"{", b"[]", b"", b"\xff", b"[" * 100_000])
async def test_what_is_no_json_object_is_refused(engine, http, raw):
    async with http.post(f"{engine.url}/v1/chat/completions", data=raw) as got:
        assert got.status == 400
        assert (await got.json())["error"]["code"] == 400


async def test_a_large_body_is_refused(http):
    port = await serve(body_bytes_max=1000)
    status, _ = await post(http, f"{port.url}/v1/completions", prompt="a" * 1000)
    assert status == 413
    await port.stop(grace_s=0.2)


async def test_tokenize_and_back(engine, http):
    text = "Gezeitenmühle, 潮汐磨坊"
    _, tokens = await post(http, f"{engine.url}/tokenize", prompt=text)
    assert tokens["count"] == len(tokens["tokens"]) == -(-len(text.encode()) // 4)
    assert (await post(http, f"{engine.url}/detokenize", tokens=tokens["tokens"]))[1] == {"prompt": text}


async def test_a_client_that_leaves_stops_its_generation(http):
    slow = SimulatedEngine(step_base_s=0.005, step_per_sequence_s=0)
    app = SimulatedApp(slow, model="sim", role=Role.COMBINED)
    port = HttpPort(app.app, host="127.0.0.1")
    await port.start()
    body = {"prompt": "a", "max_tokens": 5000, "stream": True}
    async with http.post(f"{port.url}/v1/completions", json=body) as got:
        await got.content.readline()
        async with http.get(f"{port.url}/load") as load:
            assert await load.json() == {"server_load": 1}
        async with http.get(f"{port.url}/metrics") as metrics:
            assert 'vllm:num_requests_running{engine="0",model_name="sim"} 1' in await metrics.text()
        got.close()
    async with asyncio.timeout(2):
        while app.load().requests_running:
            await asyncio.sleep(0.005)
    async with http.get(f"{port.url}/load") as load:
        assert await load.json() == {"server_load": 0}
    await port.stop(grace_s=0.2)


async def test_a_ticket_is_pulled_from_the_prefill_engine_and_a_dead_one_costs_only_time(http):
    slow = SimulatedEngine(prefill_tokens_per_s=800, step_base_s=0, step_per_sequence_s=0)
    prefill, decode = await serve(slow, Role.PREFILL), await serve(slow, Role.DECODE)
    loop = asyncio.get_running_loop()
    asked = {"prompt": [1] * 400, "temperature": 0}

    async def ticket():
        params = {"do_remote_decode": True, "do_remote_prefill": False}
        _, answer = await post(
            http, f"{prefill.url}/v1/completions", **asked, max_tokens=1, kv_transfer_params=params
        )
        return answer["kv_transfer_params"]

    async def redeem(params):
        began_at_s = loop.time()
        _, answer = await post(
            http, f"{decode.url}/v1/completions", **asked, max_tokens=3, kv_transfer_params=params
        )
        return loop.time() - began_at_s, answer["choices"][0]["text"]

    first, second = await ticket(), await ticket()
    pulled_s, text = await redeem(first)
    await prefill.stop(grace_s=0.2)
    computed_s, same_text = await redeem(second)
    assert computed_s >= 0.5 > pulled_s
    assert text == same_text
    await decode.stop(grace_s=0.2)


async def test_the_other_pages(engine, http):
    for path, status in (("/health", 200), ("/v1/models", 200), ("/nothing", 404)):
        async with http.get(engine.url + path) as got:
            assert got.status == status
    async with http.get(f"{engine.url}/v1/models") as got:
        assert [card["id"] for card in (await got.json())["data"]] == ["sim"]


async def test_the_server_form_starts_after_its_start_up_time():
    server = SimulatedServer(SimulatedEngine(start_s=0.05), model="sim", role=Role.COMBINED)
    began_at_s = asyncio.get_running_loop().time()
    app = await server.start()
    assert asyncio.get_running_loop().time() - began_at_s >= 0.05
    assert app.load() == server.load()
    assert server.failure() is None
    await server.stop()
