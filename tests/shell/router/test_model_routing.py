"""Names that leave the model open: who is chosen, from what, and what becomes of it in the record."""

import asyncio

import pytest

BIG = "vast"
TWO = {
    "models": {
        "sim": {"source": "simulated", "aliases": []},
        BIG: {
            "source": "simulated",
            "price_usd_per_million_input_tokens": 2.0,
            "price_usd_per_million_output_tokens": 10.0,
        },
    },
    "pools": {"vast": {"model": BIG, "engine": {"kind": "simulated", "step_base_s": 0.001}}},
    "routing": {
        "models": {
            "policy": "static",
            "rules": [{"name": "much", "when": {"hints": {"task": ["hard"]}}, "use": [BIG]}],
        }
    },
}


@pytest.fixture
async def two(start_cluster):
    """Two models, one rule."""
    return await start_cluster(TWO)


async def ask(cluster, model, text="hello", *, headers=None, **fields):
    return await cluster.chat(text, headers=headers, model=model, **fields)


async def test_the_names_are_listed_and_unknown_ones_refused(two):
    names = [entry["id"] for entry in (await two.get("/v1/models")).json["data"]]
    assert {"sim", BIG, "auto", "auto:cheap", "auto:quality"} <= set(names)
    assert (await two.get("/v1/models/auto:cheap")).json["id"] == "auto:cheap"
    refused = await ask(two, "auto:best")
    assert refused.status == 404
    assert refused.json["error"]["code"] == "model_not_found"
    assert "auto:quality" in refused.json["error"]["message"]
    assert (await ask(two, 7)).status == 400


async def test_a_model_s_own_name_is_obeyed_whatever_the_rules_say(two):
    answer = await ask(two, "sim", headers={"x-tidemill-hint-task": "hard"})
    assert answer.headers["x-tidemill-model"] == answer.json["model"] == "sim"
    assert (await two.decision(answer))["model_choice"] is None


async def test_without_model_routing_auto_is_the_alias_it_was(cluster):
    answer = await ask(cluster, "auto")
    assert answer.headers["x-tidemill-model"] == "sim"
    assert (await cluster.decision(answer))["model_choice"] is None
    told = await cluster.post("/v1/feedback", {"decision_id": "d-000000000000-0000000000", "reward": 1})
    assert (told.status, told.json["error"]["code"]) == (404, "model_routing_off")


@pytest.mark.parametrize("stream", [False, True])
async def test_the_chosen_model_answers_and_the_record_says_why(two, stream):
    answer = await ask(two, "auto", headers={"x-tidemill-hint-task": "hard"}, stream=stream, max_tokens=4)
    assert answer.status == 200
    assert answer.headers["x-tidemill-model"] == BIG
    body = answer.events[0] if stream else answer.json
    assert body["model"] == BIG
    record = await two.decision(answer)
    assert record["signals"]["model"] == BIG
    choice = record["model_choice"]
    assert choice["asked"] == "auto"
    assert choice["choice"]["model"] == BIG
    assert choice["choice"]["propensities"][BIG] == 1.0
    assert choice["choice"]["reasons"] == ["rule_matched"]
    assert choice["signals"]["hints"] == [["task", "hard"]]
    candidates = {candidate["model"]: candidate for candidate in choice["candidates"]}
    assert candidates[BIG]["cost_usd"] > candidates["sim"]["cost_usd"] == 0
    assert all(c["usable"] and c["energy_j"] > 0 and c["ttft_s"] > 0 for c in candidates.values())
    assert await two.metric(f'tidemill_model_choices_total{{goal="balanced",model="{BIG}"}}') == 1
    await two.assert_idle()


async def test_the_goal_is_part_of_the_name(two):
    answer = await ask(two, "auto:cheap", max_tokens=2)
    assert (await two.decision(answer))["model_choice"]["signals"]["goal"] == "cheap"


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/responses", "/v1/messages"])
async def test_every_surface_may_leave_the_model_open(two, path):
    body = {
        "/v1/completions": {"prompt": "The tide"},
        "/v1/responses": {"input": "The tide"},
        "/v1/messages": {"messages": [{"role": "user", "content": "The tide"}], "max_tokens": 3},
    }[path]
    answer = await two.post(path, {"model": "auto", **body}, x_tidemill_hint_task="hard")
    assert (answer.status, answer.headers["x-tidemill-model"]) == (200, BIG)
    counted = await two.post(
        "/v1/messages/count_tokens", {"model": "auto", "messages": [{"role": "user", "content": "x"}]}
    )
    assert (counted.status, counted.headers["x-tidemill-model"]) == (200, "sim")


async def test_a_model_without_replicas_is_not_chosen(two):
    two.remove("vast-0")
    answer = await ask(two, "auto", headers={"x-tidemill-hint-task": "hard"})
    assert (answer.status, answer.headers["x-tidemill-model"]) == (200, "sim")
    choice = (await two.decision(answer))["model_choice"]
    assert "model_unusable" in choice["choice"]["reasons"]
    assert {c["model"]: c["usable"] for c in choice["candidates"]} == {"sim": True, BIG: False}


async def test_a_model_that_fails_is_left_for_another_one(start_cluster):
    cluster = await start_cluster(TWO, stand_ins={"vast-0": "closed"})
    answer = await ask(cluster, "auto", headers={"x-tidemill-hint-task": "hard"})
    assert (answer.status, answer.headers["x-tidemill-model"]) == (200, "sim")
    record = await cluster.decision(answer)
    assert "model_fallback" in record["reasons"]
    assert [attempt["outcome"] for attempt in record["attempts"]] == ["failed", "answered"]
    assert record["model_choice"]["choice"]["model"] == "sim"
    assert await cluster.metric(f'tidemill_model_fallbacks_total{{model="{BIG}"}}') == 1
    await cluster.assert_idle()


async def test_a_named_model_that_fails_is_not_replaced(start_cluster):
    cluster = await start_cluster(
        {**TWO, "gateway": {"max_attempts": 2, "queue_timeout_s": 0.2}}, stand_ins={"vast-0": "closed"}
    )
    assert (await ask(cluster, BIG)).status in (502, 503)


async def test_when_nobody_is_there_the_error_is_that_of_a_named_model(start_cluster):
    cluster = await start_cluster({**TWO, "gateway": {"queue_timeout_s": 0.1}})
    cluster.remove(*list(cluster.engines))
    answer = await ask(cluster, "auto")
    assert answer.status == 503
    assert (await cluster.decision(answer))["model_choice"]["choice"]["reasons"] == ["no_model"]


async def test_an_equal_request_is_answered_from_the_cache_with_its_model(two):
    hard = {"x-tidemill-hint-task": "hard"}
    first = await ask(two, "auto", headers=hard, temperature=0)
    again = await ask(two, "auto", headers=hard, temperature=0)
    assert (first.headers["x-tidemill-cache"], again.headers["x-tidemill-cache"]) == ("miss", "exact")
    assert again.headers["x-tidemill-model"] == BIG
    assert (await two.decision(again))["model_choice"] is None
    named = await ask(two, "sim", temperature=0)
    assert named.headers["x-tidemill-cache"] == "miss"


@pytest.mark.parametrize("fields", [{"temperature": 0}, {}], ids=["with a look-up", "past the cache"])
async def test_the_embedding_comes_with_the_look_up_or_is_asked_for(start_cluster, fields):
    cluster = await start_cluster(TWO, encoder=True)
    answer = await ask(cluster, "auto", "Wie hoch steht heute das Wasser an der Mühle?", **fields)
    signals = (await cluster.decision(answer))["model_choice"]["signals"]
    assert len(signals["embedding"]) == 384
    assert sum(x * x for x in signals["embedding"]) == pytest.approx(1, abs=0.01)
    assert signals["language"] == "de"
    assert cluster.cache._encoder.texts_encoded == 1
    named = await ask(cluster, "sim", "Name it", **fields)
    assert named.status == 200
    assert cluster.cache._encoder.texts_encoded == 1, "a named model needs none"


async def test_embeddings_can_be_kept_out_of_the_log(start_cluster):
    cluster = await start_cluster({**TWO, "decision_log": {"embeddings": False}}, encoder=True)
    signals = (await cluster.decision(await ask(cluster, "auto")))["model_choice"]["signals"]
    assert signals["embedding"] == []
    assert signals["category_confidence"] > 0, "it was there for the choice"


async def test_a_slow_encoder_delays_a_request_only_so_long(start_cluster, monkeypatch):
    cluster = await start_cluster(
        {**TWO, "routing": TWO["routing"] | {"learning": {"text_signals_timeout_s": 0.1}}}, encoder=True
    )

    async def slow(_):
        await asyncio.sleep(5)

    monkeypatch.setattr(cluster.cache._reader, "read", slow)
    for fields in ({"temperature": 0}, {}):
        answer = await asyncio.wait_for(ask(cluster, "auto", **fields), 2)
        record = await cluster.decision(answer)
        assert "text_signals_missing" in record["reasons"]
        assert record["model_choice"]["signals"]["embedding"] == []
    assert await cluster.metric("tidemill_text_signals_missing_total") == 2


async def test_without_a_cache_models_are_chosen_without_an_embedding(start_cluster):
    cluster = await start_cluster({**TWO, "semantic_cache": {"enabled": False}}, cache=False)
    answer = await ask(cluster, "auto")
    assert answer.status == 200
    assert "text_signals_missing" in (await cluster.decision(answer))["reasons"]
