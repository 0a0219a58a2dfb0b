"""Adapters through the router: names, choices, where requests go, and what is learnt. Pagers are real."""

from dataclasses import replace

import numpy as np
import orjson
import pytest

from cluster.entities.workload import Surface
from cluster.replay import from_json, redecide
from deployments.adapter_messages import LEARNED_PATH
from deployments.router.adapters import outcomes as judgements
from deployments.router.wire.requests import parse
from tests.adapter_files import write_adapter
from tests.shell.router.observed import BreaksOnce

ENGINE = {"kind": "simulated", "step_base_s": 0.001, "output_tokens": 4}


def settings(folder, *, names=("law", "code", "sql"), **changes):
    """One model with adapters on two replicas, none of which may split requests."""
    catalogue = {
        name: {"base_model": "sim", "source": str(write_adapter(folder / name, seed))}
        for seed, name in enumerate(names)
    }
    return {
        "models": {"sim": {"source": "simulated", "aliases": ["base"]}},
        "pools": {
            "decode": {"adapters": {"slots": 2, "stall_s_per_s": 1.0}, "engine": ENGINE},
        },
        "adapters": {
            "catalogue": catalogue,
            "paging": {"dimension": 16, "policy": "gdsf", "router": "amortised", "alpha": 0.3},
            "fleet": {"learned_period_s": 0.02},
        },
        **changes,
    }


@pytest.fixture
async def cluster(start_cluster, tmp_path, monkeypatch):
    """Two decode replicas with two slots each, three adapters, nothing learnt."""
    monkeypatch.setattr(judgements, "_GATHER_S", 0.005)
    return await start_cluster(settings(tmp_path), draw=0.0)


async def ask(cluster, model, text="hello", **fields):
    return await cluster.chat(text, model=model, **{"max_tokens": 3, **fields})


async def choice_of(cluster, answer):
    return (await cluster.decision(answer))["adapter_choice"]


@pytest.mark.parametrize("name", ["sim:law", "base:law", "law"])
async def test_an_adapter_is_asked_for_by_model_or_alias_or_alone(cluster, name):
    answer = await ask(cluster, name)
    assert answer.status == 200, answer.content
    assert answer.json["model"] == "sim:law"
    assert answer.headers["x-tidemill-model"] == "sim"
    assert answer.headers["x-tidemill-adapter"] == "law"
    record = await cluster.decision(answer)
    choice = record["adapter_choice"]
    assert (choice["named"], choice["adapter"], choice["asked"]) == (True, "law", "sim:law")
    assert record["adapter_answer"]["adapter"] == "law"
    assert record["signals"]["adapter"] == "law"
    assert await cluster.metric('tidemill_adapters_asked_total{how="named",model="sim"}') == 1
    await cluster.assert_idle()


async def test_an_unknown_adapter_is_404_with_those_there_are(cluster):
    for name in ("sim:poetry", "base:poetry"):
        answer = await ask(cluster, name)
        error = answer.json["error"]
        assert (answer.status, error["code"], error["param"]) == (404, "model_not_found", "model")
        assert "sim:code, sim:law, sim:sql" in error["message"]
    other = await ask(cluster, "nothing:law")
    assert other.status == 404
    assert await cluster.metric("tidemill_adapters_unknown_total") == 2


async def test_the_base_model_is_asked_as_before(cluster):
    answer = await ask(cluster, "sim")
    assert answer.json["model"] == "sim"
    assert "x-tidemill-adapter" not in answer.headers
    assert await choice_of(cluster, answer) is None


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/responses", "/v1/messages"])
async def test_every_surface_takes_adapters(cluster, path):
    body = {
        "/v1/completions": {"prompt": "The tide"},
        "/v1/responses": {"input": "The tide"},
        "/v1/messages": {"messages": [{"role": "user", "content": "The tide"}], "max_tokens": 3},
    }[path]
    answer = await cluster.post(path, {"model": "sim:sql", **body})
    assert (answer.status, answer.headers["x-tidemill-adapter"]) == (200, "sql"), answer.content


async def test_tokens_are_those_of_the_base_model(cluster):
    counted = await cluster.post(
        "/v1/messages/count_tokens", {"model": "sim:law", "messages": [{"role": "user", "content": "x"}]}
    )
    assert counted.status == 200


async def test_requests_go_to_who_holds_the_adapter(cluster):
    first = await ask(cluster, "sim:law", "one")
    cluster.tell()
    homes = {
        (await ask(cluster, "sim:law", f"{number}")).headers["x-tidemill-replica"] for number in range(8)
    }
    assert homes == {first.headers["x-tidemill-replica"]}
    views = (await cluster.decision(await ask(cluster, "sim:law")))["replica"]["candidates"]
    held = {view["replica_id"]: view["adapters"] for view in views}
    assert held[first.headers["x-tidemill-replica"]] == ["law"]
    assert sorted(map(len, held.values())) == [0, 1]


async def test_a_request_for_an_adapter_is_decided_again_from_its_record(cluster):
    for name in ("sim:law", "sim:code", "sim:auto", "sim"):
        record = from_json(await cluster.decision(await ask(cluster, name)))
        assert redecide(record, cluster.config.routing) == ()


async def test_prefixes_of_other_adapters_are_other_prefixes(cluster):
    long = "the tide turns the wheel " * 60
    for name in ("sim", "sim:law", "sim:code"):
        await ask(cluster, name, long)
    signals = []
    for name in ("sim", "sim:law", "sim:code", "sim:law"):
        parsed = cluster.core.signals(
            parsed_request(cluster, {"model": name, "messages": [{"role": "user", "content": long}]}), "t"
        )
        signals.append(parsed.block_hashes)
    assert signals[1] == signals[3]
    assert len({hashes[0] for hashes in signals}) == 3


def parsed_request(cluster, body):
    return parse(orjson.dumps(body), Surface.CHAT, cluster.config, adapters=cluster.core.adapters.asked)


async def test_before_anything_was_learnt_priors_decide(start_cluster, tmp_path):
    changes = settings(tmp_path)
    changes["adapters"]["catalogue"]["code"]["prior_utility"] = 0.9
    changes["adapters"]["fleet"]["learned_period_s"] = 60
    cluster = await start_cluster(changes, draw=0.0)
    cluster.core.adapters._states._states.clear()
    answer = await ask(cluster, "sim:auto")
    choice = await choice_of(cluster, answer)
    assert (answer.headers["x-tidemill-adapter"], choice["states"]) == ("code", {})
    assert choice["policy"] == "amortised"
    assert next(c["name"] for c in choice["candidates"]) == "code"
    assert await cluster.metric("tidemill_adapters_prior_choices_total") == 1


async def test_names_that_leave_the_adapter_open(cluster):
    for name in ("sim:auto", "base:auto", "auto", "auto:cheap"):
        answer = await ask(cluster, name)
        assert answer.status == 200, answer.content
        choice = await choice_of(cluster, answer)
        assert (choice["named"], choice["asked"]) == (False, name)
        assert answer.headers["x-tidemill-adapter"] == choice["adapter"] != ""
        assert choice["propensity"] == 1.0


async def test_an_alias_is_obeyed(start_cluster, tmp_path):
    changes = settings(tmp_path)
    changes["models"]["sim"]["aliases"] = ["auto"]
    cluster = await start_cluster(changes)
    assert await choice_of(cluster, await ask(cluster, "auto")) is None


async def test_without_adapters_in_the_catalogue_the_base_model_answers(start_cluster, tmp_path):
    cluster = await start_cluster(settings(tmp_path, names=()))
    answer = await ask(cluster, "sim:auto")
    assert (answer.status, answer.json["model"]) == (200, "sim")
    assert (await choice_of(cluster, answer))["adapter"] == ""


async def test_the_embedding_decides_and_comes_with_the_look_up(start_cluster, tmp_path):
    cluster = await start_cluster(settings(tmp_path), encoder=True)
    answer = await ask(cluster, "sim:auto", "How high is the water at the mill?", temperature=0)
    choice = await choice_of(cluster, answer)
    assert choice["text_read"]
    assert len(choice["x"]) == 16
    assert np.linalg.norm(choice["x"]) == pytest.approx(1.0, abs=0.5)
    assert cluster.cache._encoder.texts_encoded == 1
    named = await ask(cluster, "sim:law", "Named", temperature=0)
    assert named.status == 200
    assert cluster.cache._encoder.texts_encoded == 1, "a named adapter needs none"


async def test_words_can_be_kept_out_of_the_log(start_cluster, tmp_path):
    cluster = await start_cluster(settings(tmp_path, decision_log={"embeddings": False}), encoder=True)
    answer = await ask(cluster, "sim:auto")
    choice = await choice_of(cluster, answer)
    assert (choice["text_read"], choice["x"]) == (True, [])
    judged = await cluster.post("/v1/feedback", {"decision_id": decision_id(answer), "reward": 1})
    assert judged.json["status"] == "counted", "this router remembers it"


def decision_id(answer):
    return answer.headers["x-tidemill-decision-id"]


async def until_learnt(cluster, total):
    """Wait until the router has heard what the nodes have learnt."""
    nodes = {name: engine for name, engine in cluster.engines.items() if engine.paged}
    learnt = [engine.paged.pager.core.statistics for engine in nodes.values()]
    await cluster.until(lambda: sum(node.version for node in learnt) >= total)
    states = cluster.core.adapters._states
    for name, engine in nodes.items():
        async with cluster.http.get(engine.report.url + LEARNED_PATH) as response:
            version = (await response.json())["version"]
        await cluster.until(lambda name=name, version=version: states.version(name) == version)


async def test_feedback_reaches_the_node_that_answered_and_moves_choices(cluster):
    counts = {}
    for number in range(24):
        answer = await ask(cluster, "sim:auto", f"question {number}")
        adapter = answer.headers["x-tidemill-adapter"]
        counts[number >= 12, adapter] = counts.get((number >= 12, adapter), 0) + 1
        body = {"decision_id": decision_id(answer), "reward": float(adapter == "sql")}
        told = await cluster.post("/v1/feedback", body)
        assert (told.status, told.json["status"]) == (200, "counted")
        if number == 0:
            seen = [
                name
                for name, engine in cluster.engines.items()
                if engine.paged and engine.paged.pager.core.statistics.version
            ]
            assert seen == [answer.headers["x-tidemill-replica"]]
        await until_learnt(cluster, number + 1)
    assert counts[True, "sql"] >= 10, counts
    choice = await choice_of(cluster, answer)
    assert choice["states"].keys() == {"decode-0", "decode-1"}
    line = 'tidemill_adapters_judgements_total{result="counted",source="caller"}'
    assert await cluster.metric(line) == 24


async def test_feedback_counts_once_and_a_second_opinion_is_refused(cluster):
    answer = await ask(cluster, "sim:auto")
    body = {"decision_id": decision_id(answer), "reward": 1}
    statuses = [(await cluster.post("/v1/feedback", body)).json["status"] for _ in range(2)]
    assert statuses == ["counted", "repeated"]
    refused = await cluster.post("/v1/feedback", {**body, "reward": 0})
    assert (refused.status, refused.json["error"]["code"]) == (409, "feedback_conflict")
    judge = await cluster.post("/v1/feedback", {**body, "reward": 0.5, "source": "judge"})
    assert judge.json["status"] == "counted"
    assert sum(e.paged.pager.core.statistics.version for e in cluster.engines.values() if e.paged) == 2


async def test_another_router_finds_the_answer_in_the_log_and_the_node_counts_it_once(cluster):
    answer = await ask(cluster, "sim:auto")
    await cluster.decision(answer)
    body = {"decision_id": decision_id(answer), "reward": 1}
    assert (await cluster.post("/v1/feedback", body)).json["status"] == "counted"
    cluster.core.adapters.outcomes._answers.clear()
    assert (await cluster.post("/v1/feedback", body)).json["status"] == "repeated"


async def test_named_adapters_failed_answers_and_strangers_are_nothing_to_learn_from(cluster):
    named = await ask(cluster, "sim:law")
    await cluster.decision(named)
    assert (
        await cluster.post("/v1/feedback", {"decision_id": decision_id(named), "reward": 1})
    ).status == 404
    unknown = {"decision_id": "d-0190a1b2c3d4-0123456789", "reward": 1}
    assert (await cluster.post("/v1/feedback", unknown)).status == 404


async def test_judgements_wait_for_a_node_that_is_away(cluster, monkeypatch):
    monkeypatch.setattr(judgements, "_RETRY_S", 0.02)
    answer = await ask(cluster, "sim:auto", "Give me JSON", response_format={"type": "json_object"})
    await cluster.until(lambda: any(e.paged.pager.core.statistics.version for e in with_pager(cluster)))
    urls = {name: engine.report for name, engine in cluster.engines.items()}
    for name in [name for name, engine in cluster.engines.items() if engine.paged]:
        cluster.engines[name].report = replace(urls[name], url="http://127.0.0.1:9")
    cluster.tell()
    told = await cluster.post("/v1/feedback", {"decision_id": decision_id(answer), "reward": 1})
    assert told.status == 503
    assert int(told.headers["retry-after"]) >= 1
    for name, report in urls.items():
        cluster.engines[name].report = report
    cluster.tell()
    told = await cluster.post("/v1/feedback", {"decision_id": decision_id(answer), "reward": 1})
    assert told.json["status"] == "counted"


async def test_a_full_outbox_drops_and_counts(start_cluster, tmp_path):
    cluster = await start_cluster(settings(tmp_path, routing={"learning": {"outbox_max": 2}}))
    outcomes = cluster.core.adapters.outcomes

    async def away(*_):
        raise judgements.NodesAwayError("away on purpose")

    outcomes._deliver = away
    for number in range(5):
        await ask(cluster, "sim:auto", f"Give me JSON {number}", response_format={"type": "json_object"})
    await cluster.until(lambda: len(outcomes._outbox) == 2)
    assert await cluster.metric("tidemill_adapters_outcomes_dropped_total") == 3


def with_pager(cluster):
    return [engine for engine in cluster.engines.values() if engine.paged]


async def test_what_answers_show_themselves_is_learnt_from(cluster):
    answer = await ask(cluster, "sim:auto", "Give me JSON", response_format={"type": "json_object"})
    await cluster.until(lambda: sum(e.paged.pager.core.statistics.version for e in with_pager(cluster)) == 1)
    node = cluster.engines[answer.headers["x-tidemill-replica"]].paged.pager.core
    assert node.statistics.version == 1
    row = node.row(node.keys[int(np.argmax(node.statistics.count))])
    assert node.statistics.estimates().theta[row][0] < 0, "words are no JSON"


async def test_a_stored_answer_is_found_again_but_not_by_other_adapters(cluster):
    await ask(cluster, "sim:law")
    await ask(cluster, "sim:code")
    cluster.tell()
    seen = {}
    for name in ("sim", "sim:law", "sim:code"):
        first = await ask(cluster, name, "What is due?", temperature=0)
        again = await ask(cluster, name, "What is due?", temperature=0)
        seen[name] = (first.headers["x-tidemill-cache"], again.headers["x-tidemill-cache"])
    assert set(seen.values()) == {("miss", "exact")}
    assert again.headers["x-tidemill-adapter"] == "code"


async def test_models_lists_adapters_with_their_parents_and_where_they_lie(cluster):
    await ask(cluster, "sim:law")
    cluster.tell()
    entries = {entry["id"]: entry for entry in (await cluster.get("/v1/models")).json["data"]}
    assert {"sim", "base", "sim:law", "sim:code", "sim:sql", "sim:auto", "auto"} <= entries.keys()
    law = entries["sim:law"]
    assert (law["parent"], law["object"]) == ("sim", "model")
    tiers = {found["replica"]: found["tier"] for found in law["tidemill"]["residency"]}
    assert min(tiers.values()) == "device"
    assert tiers.keys() == {"decode-0", "decode-1"}
    one = await cluster.get("/v1/models/sim:law")
    assert one.json == law


async def test_a_pager_that_cannot_load_says_so_and_harms_nobody_else(start_cluster, tmp_path):
    changes = settings(tmp_path)
    (tmp_path / "code" / "adapter_model.safetensors").write_bytes(b"garbage")
    cluster = await start_cluster(changes)
    broken = await ask(cluster, "sim:code")
    assert broken.status >= 500
    assert broken.json["error"]["code"].startswith("adapter")
    assert "code" in broken.json["error"]["message"]
    assert (await ask(cluster, "sim:law")).status == 200
    assert (await ask(cluster, "sim")).status == 200
    assert all(not load.health.failures for load in cluster.core.picture._loads.values())
    await cluster.assert_idle()


@pytest.mark.parametrize("name", ["sim:law", "sim:auto"])
async def test_a_broken_stream_is_gone_on_with_by_the_same_adapter(start_cluster, tmp_path, name):
    cluster, asked = await start_cluster(settings(tmp_path)), []
    for engine in with_pager(cluster):
        engine.counting.app = BreaksOnce(engine.counting.app, asked)
    answer = await ask(cluster, name, "Go on", stream=True, max_tokens=20)
    adapter = answer.headers["x-tidemill-adapter"]
    assert asked == [f"sim:{adapter}"] * 2
    assert "continued" in (await cluster.decision(answer))["reasons"]
    assert answer.events[-1] == "[DONE]"
    homes = [e for e in with_pager(cluster) if e.paged.pager.shelf.by_name[adapter].in_slot]
    assert len(homes) == 2, "the second replica has loaded it for the rest"


async def test_prompts_are_split_only_between_replicas_with_the_adapter(start_cluster, tmp_path):
    long = "the tide turns the wheel " * 60
    changes = settings(tmp_path)
    cluster = await start_cluster(changes)
    alone = await ask(cluster, "sim:law", long)
    assert alone.headers["x-tidemill-path"] == "combined"
    assert (await ask(cluster, "sim", long)).headers["x-tidemill-path"] == "disaggregated"
    changes["pools"]["prefill"] = {"adapters": {"slots": 2, "stall_s_per_s": 1.0}}
    both = await start_cluster(changes, router_id="r2")
    split = await ask(both, "sim:law", long)
    assert split.headers["x-tidemill-path"] == "disaggregated", await both.decision(split)
    assert both.engines["prefill-0"].paged.pager.core.resident
    await both.assert_idle()


@pytest.mark.parametrize("name", ["sim:law", "law", "sim:auto"])
async def test_a_request_that_a_guardrail_changes_is_still_for_its_adapter(start_cluster, tmp_path, name):
    guardrails = {"chain": [{"name": "pii", "use": "pii"}]}
    cluster = await start_cluster(settings(tmp_path, guardrails=guardrails))
    answer = await ask(cluster, name, "Write to jane.doe@example.com.")
    assert answer.status == 200, answer.content
    record = await cluster.decision(answer)
    assert "guardrail_changed" in record["reasons"]
    assert record["adapter_choice"]["named"] == (name != "sim:auto")
