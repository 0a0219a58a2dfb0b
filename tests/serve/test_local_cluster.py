"""The main job on real parts: vLLM engines, KV transfer over NIXL, Serve, HAProxy, the official clients.

One cluster for the whole module. Tests that kill engines come last, because what they need takes a minute
to come back.
"""

import asyncio
import gzip
import json
import os
import re
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest

from tests.serve.local_load import QUESTIONS, STORY, NamedStream, load, long_prompt, streamed
from tests.serve.malformed import malformed_requests
from tests.serve.observability import assert_only_the_catalogue, targets_of, wait_scraped
from tests.serve.prometheus import exposed, needs_prometheus, watching

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

_MODEL = "smollm2-135m-instruct"
_STORY = "Write a long story about a tide mill."
_PROMPTS_VARIABLE = "TIDEMILL_GSM8K"
"""Names a file of questions, gsm8k_test.jsonl.gz."""


@pytest.fixture
def client(local: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{local.url}/v1", api_key="test", max_retries=0, timeout=120)


def _gsm8k() -> list[str]:
    path = os.environ.get(_PROMPTS_VARIABLE)
    if not path:
        pytest.skip(f"{_PROMPTS_VARIABLE} is not set; the prompts written here are tested all the same")
    with gzip.open(path, "rt") as lines:
        return [json.loads(next(lines))["question"] for _ in range(20)]


def _greedy(url: str, prompt: str, *, tokens: int = 12, cached: bool = True) -> httpx.Response:
    headers = {} if cached else {"x-tidemill-cache": "off"}
    body = {"model": _MODEL, "prompt": prompt, "max_tokens": tokens, "temperature": 0}
    answer = httpx.post(f"{url}/v1/completions", json=body, headers=headers, timeout=120)
    assert answer.status_code == 200, answer.text
    return answer


def _text(answer: httpx.Response) -> str:
    text: str = answer.json()["choices"][0]["text"]
    return text


def _gauges(engine_url: str) -> dict[str, float]:
    text = httpx.get(f"{engine_url}/metrics", timeout=20).text
    pattern = r"^vllm:(num_requests_running|num_requests_waiting|kv_cache_usage_perc)\{[^}]*\} (\S+)$"
    return {name: float(value) for name, value in re.findall(pattern, text, re.MULTILINE)}


def test_a_long_prompt_is_disaggregated_and_a_short_one_combined(client: openai.OpenAI) -> None:
    def path(text: str) -> str:
        raw = client.chat.completions.with_raw_response.create(
            model=_MODEL, messages=[{"role": "user", "content": text}], max_tokens=6
        )
        assert raw.parse().choices[0].message.content
        return str(raw.headers["x-tidemill-path"])

    assert path("How high is the tide today?") == "combined"
    assert path(STORY * 6) == "disaggregated"


@needs_prometheus
def test_prometheus_sees_vllm_s_own_series(local: Any, client: openai.OpenAI, tmp_path: Path) -> None:
    targets = targets_of(local, {"tidemill-router": 1, "tidemill-cache": 1, "vllm": 2, "ray": 1})
    assert_only_the_catalogue(exposed([g for g in targets if g["labels"]["job"].startswith("tidemill")]))
    with watching(local, tmp_path) as prometheus:
        for number in range(2):
            client.completions.create(model=_MODEL, prompt=long_prompt(300 + number), max_tokens=4)
        wait_scraped(prometheus, targets)
        running = prometheus.query("sum by (pool) (vllm:num_requests_running)")
        assert {series["metric"]["pool"] for series in running} == {"prefill-cpu", "decode-cpu"}
        (computed,) = prometheus.query('sum(vllm:prompt_tokens_total{role="prefill"})')
        assert float(computed["value"][1]) > 400
        assert prometheus.query('vllm:time_to_first_token_seconds_count{role="decode"} > 0')
        assert prometheus.query("max by (pool) (vllm:kv_cache_usage_perc)")
        assert prometheus.query("ray_node_mem_used > 0")


def test_the_prefill_rate_is_measured(local: Any) -> None:
    """Routing divides by it; an engine that has prefilled long prompts must have said how fast."""
    _greedy(local.url, long_prompt(60))
    local.wait_for(
        "a measured rate", lambda: (local.replicas("prefill")[0]["prefill_tokens_per_s"] or 0) > 20, 10
    )


def test_the_engines_tell_of_their_prefix_caches(local: Any) -> None:
    _greedy(local.url, long_prompt(60))
    local.wait_for(
        "blocks in both prefix caches",
        lambda: all(replica["prefix_cache"]["tokens"] > 0 for replica in local.replicas()),
        10,
    )


@pytest.mark.parametrize("source", ["written here", "gsm8k"])
def test_greedy_text_is_that_of_a_single_engine_on_both_paths(local: Any, source: str) -> None:
    """The prefill engine, asked alone for the whole answer, is the single engine."""
    questions = QUESTIONS if source == "written here" else _gsm8k()
    alone = local.replicas("prefill")[0]["url"]
    paths: Counter[str] = Counter()
    for number, question in enumerate(questions):
        story = f"Note {source} {number}. {STORY * 3}" if number % 2 else ""
        prompt = f"{story}Question: {question}\nAnswer:"
        through = _greedy(local.url, prompt, cached=False)
        paths[through.headers["x-tidemill-path"]] += 1
        assert _text(through) == _text(_greedy(alone, prompt)), prompt
    assert paths["disaggregated"] >= 10
    assert source == "gsm8k" or paths["combined"] >= 10


def test_the_second_equal_request_comes_from_the_cache(client: openai.OpenAI) -> None:
    def ask(*, stream: bool) -> tuple[float, str, str]:
        began_s = time.perf_counter()
        raw = client.chat.completions.with_raw_response.create(
            model=_MODEL,
            messages=[{"role": "user", "content": f"Tell me about water wheels. {stream}"}],
            max_tokens=24,
            temperature=0,
            stream=stream,
        )
        answer: Any = raw.parse()
        if stream:
            text = "".join(chunk.choices[0].delta.content or "" for chunk in answer if chunk.choices)
        else:
            text = answer.choices[0].message.content
        return time.perf_counter() - began_s, str(raw.headers["x-tidemill-cache"]), text

    for stream in (False, True):
        first_s, outcome, text = ask(stream=stream)
        assert outcome == "miss"
        again = [ask(stream=stream) for _ in range(3)]
        assert [outcome for _, outcome, _ in again] == ["exact"] * 3
        assert {replayed for _, _, replayed in again} == {text}
        assert first_s / min(seconds for seconds, _, _ in again) >= 20


def test_the_openai_client_gets_what_it_asks_for(client: openai.OpenAI) -> None:
    assert {m.id for m in client.models.list()} >= {_MODEL, "auto", "all-minilm-l6-v2"}
    hello: Any = [{"role": "user", "content": "Say hello."}]
    chunks = list(
        client.chat.completions.create(
            model="auto", messages=hello, max_tokens=5, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 5
    plain = list(client.chat.completions.create(model=_MODEL, messages=hello, max_tokens=5, stream=True))
    assert all(chunk.choices and chunk.usage is None for chunk in plain)
    two = client.completions.create(model=_MODEL, prompt="The sea", max_tokens=4, n=2, seed=7)
    assert [choice.index for choice in two.choices] == [0, 1]
    scored = client.chat.completions.create(
        model=_MODEL, messages=hello, max_tokens=3, logprobs=True, top_logprobs=2
    )
    logprobs = scored.choices[0].logprobs
    assert logprobs is not None
    assert [len(token.top_logprobs) for token in logprobs.content or []] == [2, 2, 2]
    stopped = client.completions.create(
        model=_MODEL, prompt="1 2 3 4", max_tokens=30, temperature=0, stop=["9"]
    )
    assert "9" not in stopped.choices[0].text
    vectors = client.embeddings.create(model="all-minilm-l6-v2", input=["tide", "mill"])
    assert [len(item.embedding) for item in vectors.data] == [384, 384]


def test_json_schema_output_keeps_to_the_schema(client: openai.OpenAI) -> None:
    schema: Any = {
        "type": "object",
        "properties": {"hours": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["hours"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model=_MODEL,
        messages=[{"role": "user", "content": "How long does the mill grind?"}],
        max_tokens=60,
        temperature=0,
        response_format={"type": "json_schema", "json_schema": {"name": "h", "schema": schema}},
    )
    assert 1 <= json.loads(answer.choices[0].message.content or "")["hours"] <= 9


def test_a_tool_call_goes_there_and_back(client: openai.OpenAI) -> None:
    tools: Any = [
        {
            "type": "function",
            "function": {
                "name": "tide_table",
                "description": "High water of a day",
                "parameters": {
                    "type": "object",
                    "properties": {"day": {"type": "string"}},
                    "required": ["day"],
                },
            },
        }
    ]
    messages: Any = [{"role": "user", "content": "When is high water on Monday?"}]
    asked = client.chat.completions.create(
        model=_MODEL, messages=messages, tools=tools, tool_choice="required", max_tokens=120, temperature=0
    ).choices[0]
    assert asked.finish_reason == "tool_calls"
    calls: Any = asked.message.tool_calls
    call = calls[0]
    assert call.function.name == "tide_table"
    messages += [
        asked.message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "06:12 and 18:40"},
    ]
    answered = client.chat.completions.create(model=_MODEL, messages=messages, tools=tools, max_tokens=8)
    assert answered.choices[0].message.content


def test_responses_and_messages_are_relayed(local: Any, client: openai.OpenAI) -> None:
    raw = client.responses.with_raw_response.create(model=_MODEL, input=long_prompt(3), max_output_tokens=6)
    assert raw.headers["x-tidemill-path"] == "disaggregated"
    assert raw.parse().output_text
    kinds = [
        e.type for e in client.responses.create(model=_MODEL, input="Hi", max_output_tokens=4, stream=True)
    ]
    assert kinds[0] == "response.created"
    assert kinds[-1] in ("response.completed", "response.incomplete")
    other = anthropic.Anthropic(base_url=local.url, api_key="test", max_retries=0, timeout=120)
    hello: Any = [{"role": "user", "content": "Say hello."}]
    said = other.messages.create(model=_MODEL, max_tokens=5, messages=hello)
    assert said.usage.output_tokens == 5
    long: Any = [{"role": "user", "content": long_prompt(4)}]
    with other.messages.stream(model=_MODEL, max_tokens=5, messages=long) as stream:
        assert "".join(stream.text_stream)
    assert other.messages.count_tokens(model=_MODEL, messages=hello).input_tokens > 0
    with pytest.raises(anthropic.NotFoundError, match="nope"):
        other.messages.create(model="nope", max_tokens=5, messages=hello)
    tokens = httpx.post(f"{local.url}/tokenize", json={"model": _MODEL, "prompt": "high tide"}, timeout=30)
    assert tokens.json()["count"] >= 2


def test_a_hundred_malformed_requests_are_refused_in_openai_shape(local: Any) -> None:
    cases = list(malformed_requests(_MODEL))
    assert len(cases) >= 100
    odd = []
    with httpx.Client(timeout=60) as http:
        for path, body in cases:
            answer = http.post(local.url + path, content=body, headers={"content-type": "application/json"})
            try:
                message = answer.json()["error"]["message"]
            except (ValueError, KeyError, TypeError):
                message = None
            if not 400 <= answer.status_code < 500 or not message:
                odd.append((path, body[:120], answer.status_code, answer.text[:200]))
    assert not odd
    assert httpx.get(f"{local.url}/ready", timeout=10).status_code == 200
    assert _greedy(local.url, "Still there?").status_code == 200


def test_requests_go_past_serves_wrapping_and_serves_own_addresses_do_not(local: Any) -> None:
    at_once = {"x-request-timeout-seconds": "0.000001"}  # Serve would answer 408
    body = {"model": _MODEL, "prompt": "Count:", "max_tokens": 4}
    named = {**at_once, "x-request-id": "mine"}
    answer = httpx.post(f"{local.url}/v1/completions", json=body, headers=named, timeout=60)
    assert (answer.status_code, answer.headers["x-request-id"]) == (200, "mine"), answer.text
    assert httpx.get(f"{local.url}/-/healthz", timeout=10).text == "success"


def test_a_client_that_leaves_stops_the_engine(local: Any) -> None:
    """The router's own watch alone: Serve sees nothing of the request."""
    engine = local.replicas("decode")[0]["url"]
    body = {"model": _MODEL, "prompt": "Count:", "max_tokens": 2000, "stream": True, "ignore_eos": True}
    with httpx.stream("POST", f"{local.url}/v1/completions", json=body, timeout=60) as answer:
        next(answer.iter_bytes())
        local.wait_for("the engine to be busy", lambda: _gauges(engine)["num_requests_running"] >= 1, 5)
    local.wait_for("the engine to be idle", lambda: _gauges(engine)["num_requests_running"] == 0, 2)
    local.wait_for("the router's count", lambda: local.fleet()["router"]["requests_in_flight"] == 0, 2)


def test_blocks_of_a_ticket_that_nobody_redeems_are_freed(local: Any) -> None:
    prefill = local.replicas("prefill")[0]["url"]
    wanted = {"do_remote_decode": True, "do_remote_prefill": False}
    body = {"model": _MODEL, "prompt": long_prompt(77), "max_tokens": 1, "kv_transfer_params": wanted}
    answer = httpx.post(f"{prefill}/v1/completions", json=body, timeout=60).json()
    assert answer["kv_transfer_params"]["remote_block_ids"][0]
    assert _gauges(prefill)["kv_cache_usage_perc"] > 0
    # The lease (kv_lease_s: 15) and one health check, which makes the engine look.
    local.wait_for("the blocks", lambda: _gauges(prefill)["kv_cache_usage_perc"] == 0, 50)


def test_a_ticket_that_is_gone_costs_a_prefill_and_no_answer(local: Any) -> None:
    """What the decode engine does with a ticket whose producer has died."""
    decode = local.replicas("decode")[0]["url"]
    ticket = {
        "do_remote_prefill": True,
        "do_remote_decode": False,
        "remote_block_ids": [[1, 2, 3]],
        "remote_engine_id": "gone",
        "remote_request_id": "gone",
        "remote_host": "127.0.0.1",
        "remote_port": 1,
        "tp_size": 1,
    }
    body = {"model": _MODEL, "prompt": long_prompt(78), "max_tokens": 6, "temperature": 0}
    lost = httpx.post(f"{decode}/v1/completions", json=body | {"kv_transfer_params": ticket}, timeout=120)
    assert lost.status_code == 200, lost.text
    assert _text(lost) == _text(_greedy(local.replicas("prefill")[0]["url"], long_prompt(78), tokens=6))


def test_a_decision_is_explained(local: Any) -> None:
    decision_id = _greedy(local.url, long_prompt(50)).headers["x-tidemill-decision-id"]
    local.wait_for("the record", lambda: local.decision(decision_id), 5)
    shown = local.run("explain", decision_id)
    assert shown.returncode == 0, shown.stderr
    for word in ("disaggregated", "decode-cpu", "prefill-cpu", "TTFT"):
        assert word in shown.stdout
    chat = local.run("status", "--json")
    assert {r["role"] for r in json.loads(chat.stdout)["replicas"]} == {"prefill", "decode"}


def test_a_killed_prefill_engine_fails_no_request_and_comes_back(local: Any) -> None:
    before = local.replicas("prefill")[0]["replica_id"]
    core = local.engine_core("pool-prefill-cpu")
    ends = asyncio.run(load(local, lambda: core.send_signal(signal.SIGKILL), seconds=24))
    assert len(ends) >= 8
    assert [end for _, whole, end in ends if not whole] == []
    local.wait_for(
        "a new prefill replica",
        lambda: local.replicas("prefill")[0]["replica_id"] != before,
        180,
    )
    again = _greedy(local.url, long_prompt(90), cached=False)
    assert again.headers["x-tidemill-path"] == "disaggregated"


@pytest.mark.parametrize("victim", ["engine core", "replica"])
def test_a_killed_decode_engine_costs_nothing(local: Any, victim: str) -> None:
    before = local.replicas("decode")[0]["replica_id"]
    core, replica = local.engine_core("pool-decode-cpu"), local.replica_process("pool-decode-cpu")
    process = core if victim == "engine core" else replica
    prompt = long_prompt(95 + len(victim))
    paths = ("/v1/responses", "/v1/messages")
    alone = [NamedStream(local, path, _STORY).whole() for path in paths]
    others: list[NamedStream] = []

    def kill() -> None:
        local.wait_for("words in all streams", lambda: all(len(o.text) > 9 for o in others), 10)
        process.send_signal(signal.SIGKILL)

    whole, undisturbed, _ = streamed(local, prompt)
    text, events, decision_id = streamed(
        local,
        prompt,
        before=lambda: others.extend(NamedStream(local, path, _STORY) for path in paths),
        meanwhile=kill,
    )
    for other, before_it in zip(others, alone, strict=True):
        assert other.whole().text == before_it.text
        assert [event["type"] for event in other.others] == [event["type"] for event in before_it.others]
        assert other.usage == before_it.usage
        assert local.written_decision(other.decision_id)["attempts"][-1]["reason"] == "continued"
    assert text == whole  # word for word, although the prefill engine has made the rest
    assert {(event["id"], event["created"]) for event in events} == {(events[0]["id"], events[0]["created"])}
    assert sum("role" in c["delta"] for e in events for c in e["choices"]) == 1
    counts = ("prompt_tokens", "completion_tokens", "total_tokens")
    assert [events[-1]["usage"][n] for n in counts] == [undisturbed[-1]["usage"][n] for n in counts]
    record = local.written_decision(decision_id)
    assert [attempt["outcome"] for attempt in record["attempts"]][-2:] == ["broken", "answered"]
    assert record["attempts"][-1]["reason"] == "continued"
    ends = asyncio.run(load(local, lambda: None, seconds=8))  # while nobody decodes but the prefill engine
    assert [end for _, whole, end in ends if not whole] == []
    local.wait_for("a new decode replica", lambda: local.replicas("decode")[0]["replica_id"] != before, 180)
    local.wait_for("the old engine to be gone", lambda: not core.is_running(), 30)
    again = _greedy(local.url, long_prompt(91 + len(victim)), cached=False)
    assert again.headers["x-tidemill-pool"] == "decode-cpu"
