"""Two hundred mixed requests: every one leaves a record that decides the same again."""

import asyncio
import random
from collections import Counter

from cluster.entities.decision import DecisionRecord
from cluster.replay import read_log, redecide

SEED = 20260101
CHANGES = {
    "pools": {"decode": {"replicas": {"min": 3, "max": 3}, "max_concurrent_requests": 6}},
    "gateway": {"max_concurrent_requests": 100},
    "routing": {"disaggregation": {"prefill_timeout_s": 0.3}},
    "decision_log": {"memory_records_max": 50},
}
SURFACES = {
    "/v1/chat/completions": lambda text: {"messages": [{"role": "user", "content": text}]},
    "/v1/completions": lambda text: {"prompt": text},
    "/v1/responses": lambda text: {"input": text},
    "/v1/messages": lambda text: {"messages": [{"role": "user", "content": text}], "max_tokens": 8},
}


def requests(long_prompt):
    """Path and body of each request: lengths, surfaces, repetitions, refusals."""
    chance = random.Random(SEED)
    for number in range(200):
        path = chance.choice(list(SURFACES))
        text = chance.choice(
            ["hello", f"hello {number}", f"{number % 7} {long_prompt}", f"{number} {long_prompt}"]
        )
        body = {"model": "sim", **SURFACES[path](text), "stream": chance.random() < 0.5}
        if chance.random() < 0.4:
            body["temperature"] = 0
        if chance.random() < 0.05:
            body |= {"max_tokens": 10**6, "max_output_tokens": 10**6}
        yield path, body


def read_all(folder):
    records: list[DecisionRecord] = []
    for path in sorted(folder.glob("*.jsonl")):
        with path.open(encoding="utf-8") as lines:
            records += read_log(lines)
    return {record.decision_id: record for record in records}


async def test_a_mixed_run_is_recorded_whole_and_decides_the_same_again(start_cluster, given, tmp_path):
    cluster = await start_cluster(CHANGES, stand_ins={"decode-2": "closed"})
    places = asyncio.Semaphore(16)

    async def ask(path, body):
        async with places:
            return await cluster.post(path, body)

    answers = await asyncio.gather(*(ask(path, body) for path, body in requests(given.long_prompt)))
    await cluster.assert_idle()
    assert Counter(answer.status for answer in answers).keys() == {200, 400}, f"seed {SEED}"
    await cluster.core.decisions._lines._flush()

    records = read_all(tmp_path / "decisions")
    assert set(records) == {answer.headers["x-tidemill-decision-id"] for answer in answers}
    routing = cluster.config.routing
    assert {name: redecide(record, routing) for name, record in records.items()} == dict.fromkeys(records, ())
    for answer in answers:
        record = records[answer.headers["x-tidemill-decision-id"]]
        assert record.status == answer.status
        assert record.cache == answer.headers["x-tidemill-cache"]
        assert record.path == answer.headers["x-tidemill-path"]
        assert record.error is None
        if record.path != "cached":
            assert record.attempts[-1].replica_id == answer.headers["x-tidemill-replica"]
            assert record.replica.choice.replica_id == answer.headers["x-tidemill-replica"]
    assert {record.path for record in records.values()} == {"cached", "combined", "disaggregated"}
    assert any("retried" in record.reasons for record in records.values())

    # Memory holds the last fifty only; the first ones come from the file.
    first = min(records)
    assert first not in cluster.core.decisions._latest
    found = await cluster.get(f"/admin/decisions/{first}", key=given.admin_key)
    assert (found.status, found.json["decision_id"]) == (200, first)


async def test_records_never_hold_the_prompt_the_answer_or_the_key(cluster, tmp_path):
    headers = {"authorization": "Bearer sk-very-secret"}
    answer = await cluster.chat("my dearest secret", headers=headers)
    text = str(await cluster.decision(answer))
    await cluster.core.decisions._lines._flush()
    text += (tmp_path / "decisions" / "r.jsonl").read_text()
    assert "dearest" not in text
    assert "very-secret" not in text
    assert answer.json["choices"][0]["message"]["content"] not in text


async def test_a_log_that_cannot_be_written_costs_no_request(cluster, tmp_path):
    (tmp_path / "decisions").write_text("in the way")
    answers = [await cluster.chat() for _ in range(3)]
    assert {answer.status for answer in answers} == {200}
    await cluster.core.decisions._lines._flush()
    assert await cluster.metric("tidemill_decisions_dropped_total") == 3
    assert (await cluster.decision(answers[0]))["status"] == 200
