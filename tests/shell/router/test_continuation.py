"""Replicas that die in the middle of an answer: others go on with it, and the client cannot tell."""

import asyncio
from typing import Any

import openai
import orjson
import pytest
import yaml

from cluster.config import parse_config
from cluster.config.pools import SimulatedEngine
from cluster.replay import from_json, redecide
from deployments.router.generation.stream import Finish
from deployments.router.visit import Visit
from tests.shell.router.dying import SETTINGS, Dying

TURNS: Any = [{"role": "user", "content": "hello"}]
TOOL: Any = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
ASKED: dict[str, Any] = {
    "/v1/chat/completions": {"messages": TURNS},
    "/v1/completions": {"prompt": "hello"},
}


def told(answer: Any) -> list[Any]:
    """The events without what differs from request to request; texts are joined."""
    found: list[Any] = []
    text = ""
    for event in answer.events:
        if event == "[DONE]":
            found += [text, event]
            continue
        for choice in event["choices"]:
            text += choice["delta"].get("content") or "" if "delta" in choice else choice["text"]
            if choice["finish_reason"] or "role" in choice.get("delta", {}):
                found.append({**choice, "delta": None, "text": None} | {"role": "delta" in choice})
        if event.get("usage"):
            found.append(event["usage"])
    return found


@pytest.mark.parametrize("usage", [False, True])
@pytest.mark.parametrize("path", list(ASKED))
async def test_wherever_it_breaks_the_client_reads_a_whole_answer(dying, path, usage):
    cluster, (first, second) = dying
    body = {"model": "sim", **ASKED[path], "stream": True, "max_tokens": 12}
    if usage:
        body["stream_options"] = {"include_usage": True}
    whole = await cluster.post(path, body)
    length = len(whole.content) + 300  # the ids that the engine tells and the client does not get
    for cut in range(0, length, 97):
        first.bytes_left = second.bytes_left = cut
        first.deaths, second.deaths = 1, 0
        answer = await cluster.post(path, body)
        assert answer.status == 200
        assert told(answer) == told(whole), cut
        assert len({event["id"] for event in answer.events[:-1]}) == 1
        assert len({event["created"] for event in answer.events[:-1]}) == 1
        assert b'token_ids":[' not in answer.content
        first.deaths = 0
        await cluster.until(lambda: cluster.idle)


async def test_it_may_happen_again_and_again(dying):
    cluster, (first, second) = dying
    whole = await cluster.chat(stream=True, max_tokens=30)
    # The second one's stream is shorter in bytes and dies later; a prefill replica is the last resort.
    first.bytes_left, second.bytes_left, first.deaths, second.deaths = 1500, 1200, 1, 1
    answer = await cluster.chat(stream=True, max_tokens=30)
    assert told(answer) == told(whole)
    record = await cluster.decision(answer)
    outcomes = [(attempt["outcome"], attempt["reason"]) for attempt in record["attempts"]]
    assert outcomes == [("broken", "replica_failed"), ("broken", "replica_failed"), ("answered", "continued")]
    assert record["reasons"].count("continued") == 2
    assert record["status"] == 200
    assert record["error"] is None
    assert record["output_tokens"] == 30
    assert record["path"] == "combined"
    assert redecide(from_json(record), cluster.config.routing) == ()
    assert await cluster.metric('tidemill_retries_total{reason="continued"}') == 2
    await cluster.assert_idle()


async def test_the_next_replica_gets_what_was_said_and_makes_only_the_rest(dying):
    cluster, (first, second) = dying
    first.bytes_left, first.deaths = 1500, 1
    answer = await cluster.chat(
        stream=True,
        max_completion_tokens=20,
        min_tokens=9,
        temperature=0,
        top_k=3,
        user="me",
        tool_choice="none",
    )
    assert answer.status == 200
    (asked,) = [body for body in second.asked if "prompt" in body]
    said = sum(token >= 50_000 and token < 50_256 for token in asked["prompt"])
    assert 0 < said < 20
    assert (asked["max_tokens"], asked["min_tokens"]) == (20 - said, max(0, 9 - said))
    assert (asked["temperature"], asked["top_k"], asked["model"]) == (0, 3, "sim")
    assert not {"messages", "tool_choice", "max_completion_tokens"} & set(asked)


async def test_without_a_bound_the_rest_may_be_as_long_as_the_model_allows(dying):
    cluster, (first, second) = dying
    whole = await cluster.chat(stream=True)
    first.bytes_left, first.deaths = 1500, 1
    answer = await cluster.chat(stream=True)
    assert told(answer) == told(whole)
    (asked,) = [body for body in second.asked if "prompt" in body]
    assert asked["max_tokens"] == SimulatedEngine(**SETTINGS).max_model_len  # vLLM's streams need a number


async def test_a_disaggregated_answer_goes_on_too(dying, given):
    cluster, (first, _) = dying
    first.bytes_left, first.deaths = 3000, 1
    answer = await cluster.chat(given.long_prompt, stream=True, max_tokens=20)
    assert answer.headers["x-tidemill-path"] == "disaggregated"
    assert told(answer) == told(await cluster.chat(given.long_prompt, stream=True, max_tokens=20))
    record = await cluster.decision(answer)
    assert record["path"] == "disaggregated"
    assert record["attempts"][-1]["reason"] == "continued"


async def test_what_the_engine_says_when_it_dies_is_not_for_the_client(dying):
    cluster, (first, _) = dying
    whole = await cluster.chat(stream=True, max_tokens=20)
    first.bytes_left, first.deaths = 1500, 1
    first.parting = (
        b'"}}]}\n\ndata: {"error": {"message": "EngineCore encountered an issue"}}\n\ndata: [DONE]\n\n'
    )
    # Half an event and an error: nothing that says so may reach the client.
    answer = await cluster.chat(stream=True, max_tokens=20)
    assert b"EngineCore" not in answer.content
    assert told(answer) == told(whole)


def _aborted(path: str, reason: str = "abort") -> bytes:
    """How vLLM ends an answer when it shuts down: with text, as if the answer was over."""
    made: dict[str, Any] = {"text": " lost"}
    if path == "/v1/chat/completions":
        made = {"delta": {"content": " lost"}}
    event = {"id": "x", "choices": [{"index": 0, **made, "finish_reason": reason, "token_ids": [1, 2]}]}
    return b"data: " + orjson.dumps(event) + b"\n\ndata: [DONE]\n\n"


@pytest.mark.parametrize("reason", ["abort", "error"])
@pytest.mark.parametrize("path", list(ASKED))
async def test_an_answer_that_the_engine_breaks_off_is_gone_on_with(dying, path, reason):
    cluster, (first, second) = dying
    body = {"model": "sim", **ASKED[path], "stream": True, "max_tokens": 12}
    whole = await cluster.post(path, body)
    first.parting = second.parting = _aborted(path, reason)
    first.quietly = second.quietly = True
    for cut in (0, 700, 1500):
        first.bytes_left = second.bytes_left = cut
        first.deaths, second.deaths = 1, 0
        answer = await cluster.post(path, body)
        assert first.deaths == 0
        assert told(answer) == told(whole), cut
        assert b"lost" not in answer.content
        outcomes = [attempt["outcome"] for attempt in (await cluster.decision(answer))["attempts"]]
        assert outcomes == ["broken" if cut else "failed", "answered"]
    # The one that goes on may break off as well.
    first.bytes_left, second.bytes_left, first.deaths, second.deaths = 1500, 1200, 1, 1
    second.parting = _aborted("/v1/completions")
    assert told(await cluster.post(path, {**body, "max_tokens": 30})) == told(
        await cluster.post(path, {**body, "max_tokens": 30})
    )
    await cluster.assert_idle()


async def test_one_that_cannot_be_gone_on_with_ends_with_an_error_and_not_as_if_it_was_whole(dying):
    cluster, (first, _) = dying
    first.bytes_left, first.deaths, first.quietly = 1500, 1, True
    first.parting = _aborted("/v1/chat/completions")
    answer = await cluster.chat(stream=True, max_tokens=20, tools=[TOOL])
    assert answer.events[-1]["error"]["code"] == "engine_failed"
    assert (
        "it broke the answer off. No other replica goes on with it (tools)"
        in answer.events[-1]["error"]["message"]
    )
    assert b'"finish_reason":"abort"' not in answer.content
    assert b"[DONE]" not in answer.content


async def test_a_whole_answer_that_the_engine_broke_off_is_asked_for_again(start_cluster, given):
    choice = {"index": 0, "message": {"role": "assistant", "content": "Half an"}, "finish_reason": "abort"}
    half = orjson.dumps({"id": "x", "object": "chat.completion", "choices": [choice]})
    broken = given.engine_that(half, content_type="application/json")
    cluster = await start_cluster(
        {"semantic_cache": {"enabled": False}}, stand_ins={"decode-0": broken}, draw=0.0
    )
    answer = await cluster.chat()
    assert (answer.status, answer.headers["x-tidemill-replica"]) == (200, "decode-1")
    assert answer.json["choices"][0]["finish_reason"] in {"stop", "length"}


async def test_text_that_looks_like_a_broken_answer_is_text(start_cluster, given):
    quoted = {
        "choices": [{"index": 0, "delta": {"content": '"finish_reason":"abort"'}, "finish_reason": None}]
    }
    last = {"choices": [{"index": 0, "delta": {"content": "abort"}, "finish_reason": "stop"}]}
    stream = (
        b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in (quoted, last)) + b"data: [DONE]\n\n"
    )
    cluster = await start_cluster(stand_ins={"decode-0": given.engine_that(stream)}, draw=0.0)
    answer = await cluster.chat(stream=True)
    assert answer.headers["x-tidemill-replica"] == "decode-0"
    assert answer.content == stream


@pytest.mark.parametrize("nonsense", [b"data: {\n\n", b"data: []\n\n", b'data: {"choices":[7]}\n\n'])
async def test_a_replica_that_goes_on_with_nonsense_is_given_up(start_cluster, given, nonsense):
    engine = Dying()
    cluster = await start_cluster(
        {"semantic_cache": {"enabled": False}},
        stand_ins={"decode-0": engine, "decode-1": given.engine_that(nonsense)},
        draw=0.0,
    )
    whole = await cluster.chat(stream=True, max_tokens=20)
    engine.bytes_left, engine.deaths = 1500, 1
    answer = await cluster.chat(stream=True, max_tokens=20)
    assert told(answer) == told(whole)  # by the prefill replica
    record = await cluster.decision(answer)
    assert [attempt["outcome"] for attempt in record["attempts"]] == ["broken", "broken", "answered"]
    await engine.aclose()


async def test_a_continued_answer_is_cached_as_a_whole_one(start_cluster):
    engine = Dying()
    cluster = await start_cluster(stand_ins={"decode-0": engine}, draw=0.0)
    engine.bytes_left, engine.deaths = 900, 1
    first = await cluster.chat(stream=True, temperature=0)
    assert engine.deaths == 0
    await cluster.until(lambda: cluster.idle)
    again = await cluster.chat(stream=True, temperature=0)
    assert (first.headers["x-tidemill-cache"], again.headers["x-tidemill-cache"]) == ("miss", "exact")
    assert told(again) == told(first)
    await engine.aclose()


async def test_a_replica_that_hangs_is_given_up_once_it_is_out_of_the_table(start_cluster, given):
    choice = b'{"index":0,"text":"","token_ids":[],"prompt_token_ids":[256]}'
    event = b'data: {"id":"x","created":1,"choices":[%b]}' % choice
    changes = {"gateway": {"continuation": {"silence_s": 0.2}}, "semantic_cache": {"enabled": False}}
    for silent in ("hang", "hang silently"):
        frozen = given.engine_that(*([event + b"\n\n"] if silent == "hang" else []), then=silent)
        cluster = await start_cluster(changes, stand_ins={"decode-0": frozen}, draw=0.0)
        asking = asyncio.create_task(
            cluster.post("/v1/completions", {"model": "sim", "prompt": "a", "max_tokens": 3, "stream": True})
        )
        await cluster.until(lambda c=cluster: c.engines["decode-0"].counting.total == 1)
        await asyncio.sleep(0.3)
        assert not asking.done()  # as long as it reports, it may take its time
        cluster.remove("decode-0")
        answer = await asyncio.wait_for(asking, 2)
        assert answer.events[-1] == "[DONE]"
        record = await cluster.decision(answer)
        assert [a["outcome"] for a in record["attempts"]][-1] == "answered"
        assert len(record["attempts"]) == 2


async def test_attempts_are_bounded(dying):
    cluster, (first, second) = dying
    cluster.remove("prefill-0")
    first.bytes_left = second.bytes_left = 900
    first.deaths = second.deaths = 100
    answer = await cluster.chat(stream=True, max_tokens=30)
    assert answer.events[-1]["error"]["code"] == "engine_failed"
    record = await cluster.decision(answer)
    assert [attempt["outcome"] for attempt in record["attempts"]] == ["broken"] * 4
    await cluster.assert_idle()


async def test_a_continued_answer_that_fails_after_all_is_charged_for_every_replica_s_tokens(
    dying, monkeypatch
):
    seen: list[int] = []

    def leave(_: Any, record: Any, answers: Any) -> None:
        del record
        seen.append(sum(answer.tokens_seen for answer in answers))

    monkeypatch.setattr(Visit, "leave", leave)
    cluster, (first, second) = dying
    cluster.remove("prefill-0")
    first.bytes_left = second.bytes_left = 1500
    first.deaths = second.deaths = 100
    answer = await cluster.chat(stream=True, max_tokens=30)
    assert answer.events[-1]["error"]["code"] == "engine_failed"
    text = "".join(c["delta"].get("content") or "" for e in answer.events[:-1] for c in e["choices"])
    words = len(text.split())
    assert words > 8
    # Tokens that were made twice at a seam, and the event that only names the role, may be in it.
    assert words <= seen[0] <= words + 8


async def test_why_it_ended_is_known_even_if_only_the_end_is_lost(dying, monkeypatch):
    finishes: list[Any] = []

    def leave(_: Any, record: Any, answers: Any) -> None:
        del record
        finishes.append(answers[-1].relayed.finish)

    monkeypatch.setattr(Visit, "leave", leave)
    cluster, (first, _) = dying
    whole = await cluster.chat(stream=True, max_tokens=12)
    for cut in range(len(whole.content), len(whole.content) + 500, 25):  # ids and usage are told as well
        first.bytes_left, first.deaths = cut, 1
        assert told(await cluster.chat(stream=True, max_tokens=12)) == told(whole)
        first.deaths = 0
    assert set(finishes) == {Finish.CUT}


@pytest.mark.parametrize(
    ("why", "fields"),
    [
        ("logprobs", {"logprobs": True}),
        ("tools", {"tools": [TOOL]}),
        ("several_sequences", {"n": 2}),
        ("grammar", {"response_format": {"type": "json_object"}}),
        ("counted_output", {"frequency_penalty": 0.5}),
        ("ids", {"return_token_ids": True}),
        ("not_text", {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}),
        ("too_long", {"stop": ["x" * 600]}),
    ],
)
async def test_what_cannot_be_continued_ends_with_an_error_that_says_why(dying, why, fields):
    cluster, (first, _) = dying
    first.bytes_left, first.deaths = 900, 1
    answer = await cluster.post(
        "/v1/chat/completions",
        {"model": "sim", "messages": TURNS, "stream": True, "max_tokens": 30, **fields},
    )
    message = answer.events[-1]["error"]["message"]
    assert message.startswith("The engine failed in the middle of the answer")
    assert f"No other replica goes on with it ({why})" in message
    record = await cluster.decision(answer)
    assert "not_continued" in record["reasons"]
    assert len(record["attempts"]) == 1
    if why == "ids":
        assert answer.events[1]["choices"][0]["token_ids"]


async def test_it_can_be_switched_off(start_cluster):
    engine = Dying()
    cluster = await start_cluster(
        {"gateway": {"continuation": {"enabled": False}}}, stand_ins={"decode-0": engine}, draw=0.0
    )
    engine.bytes_left, engine.deaths = 900, 1
    answer = await cluster.chat(stream=True, max_tokens=30)
    assert "(switched_off)" in answer.events[-1]["error"]["message"]
    assert "return_token_ids" not in engine.asked[0]
    await engine.aclose()


async def test_the_official_client_reads_on(dying):
    cluster, (first, _) = dying
    async with openai.AsyncOpenAI(base_url=f"{cluster.url}/v1", api_key="k", max_retries=0) as client:

        async def ask() -> tuple[str, Any]:
            text, usage = "", None
            stream: Any = await client.chat.completions.create(
                model="sim",
                messages=TURNS,
                stream=True,
                max_tokens=25,
                stream_options={"include_usage": True},
            )
            async for chunk in stream:
                usage = chunk.usage or usage
                text += "".join(choice.delta.content or "" for choice in chunk.choices)
            return text, usage.completion_tokens

        whole = await ask()
        first.bytes_left, first.deaths = 2000, 1
        assert await ask() == whole
    assert first.deaths == 0


def test_its_settings_are_read():
    text = yaml.safe_dump(
        {
            "models": {"m": {"source": "s"}},
            "pools": {"p": {"model": "m"}},
            "gateway": {"continuation": {"max_attempts": 5}},
        }
    )
    assert parse_config(text).gateway.continuation.max_attempts == 5
