"""Answers are judged before they are sent: the first is good enough, or another model's is sent instead."""

import asyncio
import math
import time

import orjson
import pytest

from deployments.tenants.keys import FileKeys, new_key
from tests.shell.router.little_cluster import ADMIN_KEY

TWO = {
    "models": {
        "sim": {"source": "simulated", "aliases": []},
        "vast": {
            "source": "simulated",
            "price_usd_per_million_input_tokens": 1.0,
            "price_usd_per_million_output_tokens": 10.0,
        },
    },
    "pools": {
        "decode": {"role": "combined", "replicas": {"min": 1, "max": 1}},
        "vast": {"model": "vast", "engine": {"kind": "simulated", "step_base_s": 0.001}},
    },
    "routing": {
        "models": {
            "policy": "linucb",
            "exploration_share": 0.0,
            "cascade": {"enabled": True, "gain_min": 0.1},
        }
    },
}


class Model:
    """An engine whose every token has the same margin, and which remembers what it was asked."""

    def __init__(self, name, margin, *, status=200, pause_s=0.0, verdict=None):
        self.name, self.margin, self.status, self.pause_s = name, margin, status, pause_s
        self.verdict = verdict
        """Its probability of "Yes" when it is asked to judge."""
        self.asked = []

    async def __call__(self, scope, receive, send):
        raw = b""
        more = True
        while more:
            message = await receive()
            raw += message.get("body", b"")
            more = message.get("more_body", False)
        body = orjson.loads(raw)
        self.asked.append(body)
        await asyncio.sleep(self.pause_s)
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        chat = scope["path"].endswith("chat/completions")
        answer = self._answer(chat=chat) if self.status == 200 else {"error": {"message": "no", "code": 400}}
        if chat and "Is this answer correct" in body["messages"][-1]["content"]:
            answer = self._judgement()
        await send({"type": "http.response.body", "body": orjson.dumps(answer)})

    def _judgement(self):
        tops = [
            {"token": "Yes", "logprob": math.log(self.verdict)},
            {"token": " no", "logprob": math.log(1 - self.verdict)},
        ]
        message = {"role": "assistant", "content": "Yes"}
        choice = {"index": 0, "message": message, "logprobs": {"content": [{"top_logprobs": tops}]}}
        usage = {"prompt_tokens": 40, "completion_tokens": 1, "total_tokens": 41}
        return {"choices": [choice | {"finish_reason": "length"}], "usage": usage, "model": self.name}

    def _answer(self, *, chat):
        words = [f"{self.name} ", "says ", "so"]
        text = "".join(words)
        tops = [(word, -0.1, "x", -0.1 - self.margin) for word in words]
        if chat:
            content = [
                {
                    "token": word,
                    "logprob": first,
                    "top_logprobs": [{"token": word, "logprob": first}, {"token": other, "logprob": second}],
                }
                for word, first, other, second in tops
            ]
            message = {"role": "assistant", "content": text, "reasoning": None, "tool_calls": []}
            choice = {"index": 0, "message": message, "logprobs": {"content": content}}
        else:
            logprobs = {"top_logprobs": [{word: first, other: second} for word, first, other, second in tops]}
            choice = {"index": 0, "text": text, "logprobs": logprobs}
        return {
            "id": f"chatcmpl-{self.name}",
            "object": "chat.completion" if chat else "text_completion",
            "created": 1,
            "model": self.name,
            "choices": [choice | {"finish_reason": "stop", "stop_reason": None}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13},
        }


@pytest.fixture
def cascade_of(start_cluster):
    """Starts a cluster with two models of these margins."""

    async def start(small, vast, **changes):
        return await start_cluster(
            {**TWO, **changes}, stand_ins={"decode-0": small, "prefill-0": small, "vast-0": vast}
        )

    return start


async def ask(cluster, path="/v1/chat/completions", **fields):
    asked = {"messages": [{"role": "user", "content": "Why?"}]} if "chat" in path else {"prompt": "Why?"}
    return await cluster.post(path, {"model": "auto", **asked, **fields})


async def test_a_sure_answer_of_the_cheap_model_is_sent(cascade_of):
    small, vast = Model("sim", 5.0), Model("vast", 5.0)
    cluster = await cascade_of(small, vast)
    answer = await ask(cluster)
    assert (answer.status, answer.headers["x-tidemill-model"]) == (200, "sim")
    assert answer.headers["x-tidemill-replica"] == "decode-0"
    (choice,) = answer.json["choices"]
    assert choice["message"]["content"] == "sim says so"
    assert choice["logprobs"] is None, "what grading needed is not what the client asked for"
    assert answer.json["usage"]["total_tokens"] == 13
    assert vast.asked == []
    assert (small.asked[0]["model"], small.asked[0]["logprobs"], small.asked[0]["top_logprobs"]) == (
        "sim",
        True,
        2,
    )
    record = await cluster.decision(answer)
    (step,) = record["cascade"]
    assert (step["model"], step["accepted"], step["grade"]) == ("sim", True, 1.0)
    assert step["reasons"] == ["answer_good_enough"]
    assert record["model_choice"]["choice"]["policy"] == "linucb+cascade"
    await cluster.assert_idle()


async def test_an_unsure_answer_goes_to_the_better_model_and_all_of_it_is_counted(cascade_of):
    small, vast = Model("sim", 0.05), Model("vast", 5.0)
    cluster = await cascade_of(small, vast)
    answer = await ask(cluster)
    assert (answer.status, answer.headers["x-tidemill-model"]) == (200, "vast")
    assert answer.json["choices"][0]["message"]["content"] == "vast says so"
    usage = answer.json["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (20, 6, 26)
    record = await cluster.decision(answer)
    first, second = record["cascade"]
    assert (first["model"], first["accepted"]) == ("sim", False)
    assert first["grade"] < 0.1
    assert first["reasons"] == ["better_model_expected"]
    assert (second["model"], second["accepted"]) == ("vast", True)
    assert second["cost_usd"] == pytest.approx((10 * 1 + 3 * 10) / 1e6)
    assert record["signals"]["model"] == "vast"
    assert (record["prompt_tokens"], record["output_tokens"]) == (20, 6)
    assert [attempt["outcome"] for attempt in record["attempts"]] == ["answered", "answered"]
    line = 'tidemill_cascade_answers_total{model="sim",verdict="escalated"}'
    assert await cluster.metric(line) == 1
    await cluster.assert_idle()


async def test_of_two_unsure_answers_the_surer_one_is_sent(cascade_of):
    cluster = await cascade_of(Model("sim", 0.4), Model("vast", 0.05))
    answer = await ask(cluster)
    assert answer.headers["x-tidemill-model"] == "sim"
    steps = (await cluster.decision(answer))["cascade"]
    assert [(step["model"], step["accepted"]) for step in steps] == [("sim", True), ("vast", False)]


async def test_nobody_is_asked_who_would_come_too_late(cascade_of):
    models = {name: {**entry, "slo": {"ttft_s": 0.05, "tpot_s": 1}} for name, entry in TWO["models"].items()}
    cluster = await cascade_of(Model("sim", 0.05, pause_s=0.1), Model("vast", 5.0), models=models)
    answer = await ask(cluster)
    assert answer.headers["x-tidemill-model"] == "sim"
    (step,) = (await cluster.decision(answer))["cascade"]
    assert step["reasons"] == ["better_model_too_slow"]


async def test_a_stream_has_role_content_finish_usage_and_its_end(cascade_of):
    cluster = await cascade_of(Model("sim", 0.05), Model("vast", 5.0))
    answer = await ask(cluster, stream=True, stream_options={"include_usage": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    *events, done = answer.events
    assert done == "[DONE]"
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    assert {event["model"] for event in events} == {"vast"}
    deltas = [event["choices"][0]["delta"] for event in events if event["choices"]]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta.get("content", "") for delta in deltas) == "vast says so"
    finishes = [event["choices"][0]["finish_reason"] for event in events if event["choices"]]
    assert finishes == [None, None, "stop"]
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["completion_tokens"] == 6
    plain = await ask(cluster, stream=True)
    assert all(event["choices"] and "usage" not in event for event in plain.events[:-1])


async def test_text_completions_and_asked_for_logprobs(cascade_of):
    small = Model("sim", 5.0)
    cluster = await cascade_of(small, Model("vast", 5.0))
    text = await ask(cluster, "/v1/completions")
    assert text.json["choices"][0]["text"] == "sim says so"
    assert text.json["choices"][0]["logprobs"] is None
    streamed = await ask(cluster, "/v1/completions", stream=True)
    assert streamed.events[0]["choices"][0]["text"] == "sim says so"
    assert streamed.events[-1] == "[DONE]"
    asked = await ask(cluster, logprobs=True, top_logprobs=1)
    tokens = asked.json["choices"][0]["logprobs"]["content"]
    assert [len(token["top_logprobs"]) for token in tokens] == [1, 1, 1]


@pytest.mark.parametrize(
    "fields",
    [{"n": 2}, {"tools": [{"type": "function", "function": {"name": "f"}}]}],
    ids=["several choices", "tools"],
)
async def test_what_cannot_be_judged_is_relayed(cascade_of, fields):
    small, vast = Model("sim", 0.05), Model("vast", 5.0)
    cluster = await cascade_of(small, vast)
    answer = await ask(cluster, **fields)
    assert answer.status == 200
    assert (await cluster.decision(answer))["cascade"] == []
    assert len(small.asked + vast.asked) == 1
    assert "top_logprobs" not in (small.asked + vast.asked)[0]


async def test_the_request_s_own_mistake_is_answered_by_the_first_model(cascade_of):
    small, vast = Model("sim", 0.05, status=400), Model("vast", 5.0)
    cluster = await cascade_of(small, vast)
    answer = await ask(cluster)
    assert (answer.status, answer.json) == (400, {"error": {"message": "no", "code": 400}})
    assert vast.asked == []
    assert (await cluster.decision(answer))["status"] == 400


@pytest.mark.parametrize("first_grade", [0.05, None], ids=["after an answer", "at once"])
async def test_a_model_that_fails_costs_no_answer(cascade_of, first_grade):
    if first_grade is None:
        cluster = await cascade_of(Model("sim", 5.0, status=500), Model("vast", 5.0))
        expected = "vast"
    else:
        cluster = await cascade_of(Model("sim", first_grade), Model("vast", 5.0, status=500))
        expected = "sim"
    answer = await ask(cluster)
    assert (answer.status, answer.headers["x-tidemill-model"]) == (200, expected)
    record = await cluster.decision(answer)
    assert "model_fallback" in record["reasons"]
    assert [step["accepted"] for step in record["cascade"]] == [True]
    await cluster.assert_idle()


async def test_an_engine_that_says_nothing_of_its_tokens_is_believed(start_cluster):
    """The simulated engine has no log-probabilities; its answer keeps the quality expected of it."""
    cluster = await start_cluster(TWO)
    answer = await ask(cluster, max_tokens=3)
    assert answer.status == 200
    steps = (await cluster.decision(answer))["cascade"]
    assert all(step["grade"] is None for step in steps)


def _verified_by(verifier, **fields):
    models = TWO["routing"]["models"]
    cascade = models["cascade"] | {"verifier": verifier, **fields}
    return {"routing": {"models": models | {"cascade": cascade}}}


@pytest.mark.parametrize("verdict", [0.95, 0.05])
async def test_a_model_may_judge_its_own_answer(cascade_of, verdict):
    small, vast = Model("sim", 5.0, verdict=verdict), Model("vast", 5.0, verdict=0.9)
    cluster = await cascade_of(small, vast, **_verified_by("self_check"))
    answer = await ask(cluster)
    assert answer.headers["x-tidemill-model"] == ("sim" if verdict > 0.5 else "vast")
    first, *_ = (await cluster.decision(answer))["cascade"]
    assert first["grade"] == pytest.approx(verdict)
    assert "logprobs" not in small.asked[0]
    question = small.asked[1]["messages"][0]["content"]
    assert "Why?" in question
    assert "sim says so" in question
    assert answer.json["usage"]["prompt_tokens"] == (50 if verdict > 0.5 else 100)
    await cluster.assert_idle()


async def test_another_model_may_judge_and_its_absence_costs_no_answer(cascade_of):
    small, vast = Model("sim", 0.05), Model("vast", 5.0, verdict=0.95)
    cluster = await cascade_of(small, vast, **_verified_by("judge", judge="vast"))
    answer = await ask(cluster)
    assert answer.headers["x-tidemill-model"] == "sim"
    (step,) = (await cluster.decision(answer))["cascade"]
    assert step["grade"] == pytest.approx(0.95)
    assert step["cost_usd"] == pytest.approx((40 * 1 + 1 * 10) / 1e6), "the judge's"
    used = answer.json["usage"]
    assert (step["prompt_tokens"], step["output_tokens"]) == (
        used["prompt_tokens"],
        used["completion_tokens"],
    )
    vast.status = 500
    again = await ask(cluster)
    assert again.headers["x-tidemill-model"] == "sim"
    assert (await cluster.decision(again))["cascade"][0]["grade"] is None
    await cluster.assert_idle()


async def test_a_judge_reads_no_tenant_s_words_into_a_shared_prefix_cache(cascade_of):
    small, vast = Model("sim", 5.0, verdict=0.95), Model("vast", 5.0)
    changes = _verified_by("self_check")
    changes["routing"]["replicas"] = {"prefix_isolation": "tenant"}
    cluster = await cascade_of(small, vast, **changes)
    assert (await ask(cluster)).status == 200
    answered, judged = small.asked
    assert judged["cache_salt"] == answered["cache_salt"] != ""


async def test_a_cascade_s_answer_is_cached_in_the_client_s_form(cascade_of):
    small, vast = Model("sim", 0.05), Model("vast", 5.0)
    cluster = await cascade_of(small, vast)
    first = await ask(cluster, temperature=0, stream=True)
    again = await ask(cluster, temperature=0, stream=True)
    assert again.headers["x-tidemill-cache"] == "exact"
    assert len(again.events) == len(first.events)
    assert (len(small.asked), len(vast.asked)) == (1, 1)


async def _of_a_tenant(cascade_of, tmp_path, small, vast, limit, **changes):
    """A cluster whose one tenant may use so many tokens a minute, and a key of it."""
    record, key = new_key("acme", name="test", now_s=time.time(), expires_at_s=None)
    FileKeys(tmp_path / "tenants" / "keys.json").change(lambda keys: {**keys, record.key_id: record})
    tenants = {"enabled": True, "tenants": {"acme": {"tokens_per_minute": limit}}}
    cluster = await cascade_of(small, vast, tenants=tenants, **changes)

    async def asked(**fields):
        body = {"model": "auto", "messages": [{"role": "user", "content": "Why?"}], **fields}
        return await cluster.post("/v1/chat/completions", body, authorization=f"Bearer {key}")

    return cluster, asked


async def test_a_tenant_reserves_what_all_models_may_use_and_pays_what_they_did(cascade_of, tmp_path):
    small, vast = Model("sim", 0.05, pause_s=0.3), Model("vast", 5.0)
    cluster, asked = await _of_a_tenant(cascade_of, tmp_path, small, vast, 300)
    both = await asyncio.gather(asked(max_tokens=100), asked(max_tokens=100))
    assert sorted(answer.status for answer in both) == [200, 429], "two models of 100 tokens fit once"
    (answered,) = [answer for answer in both if answer.status == 200]
    assert answered.json["usage"]["total_tokens"] == 26
    assert (await asked(max_tokens=100)).status == 200, "274 are left"
    rows = (await cluster.get("/admin/usage", key=ADMIN_KEY)).json["usage"]
    assert {row["prompt_tokens"] + row["output_tokens"] for row in rows} == {52}


async def test_a_cascade_asks_no_more_models_than_its_tenants_limits_hold(cascade_of, tmp_path):
    small, vast = Model("sim", 0.05), Model("vast", 5.0)
    _, asked = await _of_a_tenant(cascade_of, tmp_path, small, vast, 150)
    answer = await asked(max_tokens=100)
    assert (answer.status, answer.headers["x-tidemill-model"]) == (200, "sim")
    assert vast.asked == []


async def test_a_judge_s_tokens_are_reserved_as_well(cascade_of, tmp_path):
    small, vast = Model("sim", 5.0, verdict=0.95), Model("vast", 5.0)
    _, asked = await _of_a_tenant(cascade_of, tmp_path, small, vast, 150, **_verified_by("self_check"))
    refused = await asked(max_tokens=100)
    assert refused.status == 429, "100 for the answer and more for who reads it"
    assert (await asked(max_tokens=20)).status == 200
