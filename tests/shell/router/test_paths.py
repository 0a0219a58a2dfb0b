"""Which path a request takes, and what the answer's headers and the decision record say of it."""

import pytest

from cluster.entities.pool import ReplicaPhase

HEADERS = ("decision-id", "model", "pool", "replica", "path", "cache")


def told(answer):
    return {name: answer.headers.get(f"x-tidemill-{name}") for name in HEADERS}


async def test_a_short_prompt_is_computed_where_its_tokens_are_made(cluster):
    answer = await cluster.chat("hello")
    assert answer.status == 200
    said = told(answer)
    assert said.pop("decision-id").startswith("d-")
    assert said.pop("replica") in {"decode-0", "decode-1"}
    assert said == {"model": "sim", "pool": "decode", "path": "combined", "cache": "bypass"}
    assert cluster.engines["prefill-0"].counting.total == 0
    record = await cluster.decision(answer)
    assert (record["path"], record["status"], record["router"]) == ("combined", 200, "r")
    assert record["path_decision"]["choice"]["reasons"] == ["prompt_short"]
    await cluster.assert_idle()


async def test_a_long_prompt_is_prefilled_elsewhere(cluster, given):
    answer = await cluster.chat(given.long_prompt, temperature=0)
    assert answer.status == 200
    said = told(answer)
    assert said["path"] == "disaggregated"
    assert said["pool"] == "decode"
    assert said["cache"] == "miss"
    assert cluster.engines["prefill-0"].counting.requests == {
        "/v1/chat/completions": 1,
        **{path: 1 for path in cluster.engines["prefill-0"].counting.requests if "tickets" in path},
    }
    assert any("tickets" in path for path in cluster.engines["prefill-0"].counting.requests)
    record = await cluster.decision(answer)
    assert [(a["replica_id"], a["outcome"]) for a in record["attempts"]] == [
        ("prefill-0", "prefilled"),
        (said["replica"], "answered"),
    ]
    assert record["prompt_tokens"] > 64
    assert record["output_tokens"] == 8
    await cluster.assert_idle()


async def test_both_paths_give_the_same_text(start_cluster, given):
    texts = set()
    for enabled in (True, False):
        cluster = await start_cluster({"routing": {"disaggregation": {"enabled": enabled}}})
        answer = await cluster.chat(given.long_prompt)
        assert told(answer)["path"] == ("disaggregated" if enabled else "combined")
        texts.add(answer.json["choices"][0]["message"]["content"])
    assert len(texts) == 1


async def test_a_prefix_that_the_decode_replica_holds_is_not_sent_away(start_cluster, given):
    cluster = await start_cluster({"pools": {"decode": {"replicas": {"min": 1, "max": 1}}}})
    prompt = given.long_prompt * 3
    assert told(await cluster.chat(prompt))["path"] == "disaggregated"
    again = await cluster.chat(prompt)
    assert told(again)["path"] == "combined"
    record = await cluster.decision(again)
    assert record["path_decision"]["choice"]["reasons"] == ["prompt_cached_at_decode"]


@pytest.mark.parametrize("fields", [{"n": 2}, {"prompt_logprobs": 1}, {"use_beam_search": True}])
async def test_what_cannot_be_split_is_not(cluster, given, fields):
    answer = await cluster.chat(given.long_prompt, **fields)
    assert (answer.status, told(answer)["path"]) == (200, "combined")


async def test_without_prefill_replicas_everything_is_combined(cluster, given):
    cluster.remove("prefill-0")
    answer = await cluster.chat(given.long_prompt)
    assert (answer.status, told(answer)["path"]) == (200, "combined")
    record = await cluster.decision(answer)
    assert record["path_decision"]["choice"]["reasons"] == ["no_prefill_replica"]


async def test_a_draining_replica_gets_nothing_new(cluster):
    cluster.set_phase("decode-0", ReplicaPhase.DRAINING)
    cluster.core.draw = lambda: 0.0
    for _ in range(2):
        assert told(await cluster.chat())["replica"] == "decode-1"


async def test_requests_spread_over_equal_replicas(cluster):
    for number in range(40):
        await cluster.chat(f"hello {number}")
    counts = [cluster.engines[name].counting.total for name in ("decode-0", "decode-1")]
    assert sum(counts) == 40
    assert min(counts) > 5


async def test_the_engine_is_told_the_decision_id(cluster):
    answer = await cluster.chat()
    assert answer.json["id"] == f"chatcmpl-{answer.headers['x-tidemill-decision-id']}"


@pytest.mark.parametrize(("isolation", "shared"), [(None, True), ("none", True), ("tenant", False)])
async def test_tenants_share_prefixes_only_where_that_is_configured(start_cluster, given, isolation, shared):
    cluster = await start_cluster({"routing": {"replicas": {"prefix_isolation": isolation}}})
    cluster.remove("prefill-0", "decode-1")

    async def believed_cached(key):
        answer = await cluster.chat(
            given.long_prompt, temperature=1, headers={"authorization": f"Bearer {key}"}
        )
        record = await cluster.decision(answer)
        (candidate,) = record["replica"]["candidates"]
        return candidate["cached_tokens"]

    assert await believed_cached("mill") == 0
    assert await believed_cached("mill") > 64
    assert (await believed_cached("weir") > 64) is shared


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages"])
async def test_a_client_neither_gets_nor_redeems_tickets(cluster, path):
    turns = [{"role": "user", "content": "hello"}]
    body = {"model": "sim", "messages": turns, "input": "hello", "max_tokens": 1}
    for ticket in ({"do_remote_decode": True}, {"do_remote_prefill": True, "remote_host": "10.0.0.1"}):
        answer = await cluster.post(path, {**body, "kv_transfer_params": ticket})
        assert answer.status == 400
        assert "kv_transfer_params" in answer.content.decode()
    assert cluster.engine_requests == 0
