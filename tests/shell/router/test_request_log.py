"""The request log: one line for each request, bounded, without a word of what was asked."""

import asyncio
from collections import Counter

import orjson

SECRET = "the harbour master's secret"
FIELDS = [
    "timestamp",
    "decision_id",
    "trace_id",
    "tenant",
    "surface",
    "stream",
    "model",
    "cache",
    "path",
    "pool",
    "replica",
    "status",
    "prompt_tokens",
    "cached_tokens",
    "output_tokens",
    "ttft_s",
    "tpot_s",
    "e2e_s",
    "energy_j",
    "energy_source",
    "attempts",
    "reasons",
]


async def lines(cluster, folder):
    await cluster.assert_idle()
    await cluster.core.request_log._lines._flush()
    return [
        orjson.loads(line)
        for path in sorted((folder / "requests").glob("*.jsonl"))
        for line in path.read_bytes().splitlines()
    ]


async def test_every_request_is_one_line_that_says_what_became_of_it(cluster, tmp_path, given):
    key = {"authorization": "Bearer sk-do-not-tell"}
    plain = await cluster.chat(SECRET, headers=key)
    streamed = await cluster.chat(given.long_prompt, stream=True, temperature=0)
    stored = await cluster.chat(given.long_prompt, stream=True, temperature=0)
    refused = await cluster.chat("x", n=0)
    found = await lines(cluster, tmp_path)
    assert [line["status"] for line in found] == [200, 200, 200, 400]
    assert [line.get("decision_id") for line in found] == [
        answer.headers.get("x-tidemill-decision-id") for answer in (plain, streamed, stored, refused)
    ]
    first, second, third, fourth = found
    assert list(first) == FIELDS
    assert (first["model"], first["path"], first["pool"]) == ("sim", "combined", "decode")
    assert first["replica"] == plain.headers["x-tidemill-replica"]
    assert first["output_tokens"] == plain.json["usage"]["completion_tokens"]
    assert 0 < first["ttft_s"] <= first["e2e_s"]
    assert first["tpot_s"] is None
    assert "cache_bypass" in first["reasons"]
    assert (second["path"], second["cache"], second["stream"]) == ("disaggregated", "miss", True)
    assert second["tpot_s"] > 0
    assert second["attempts"] == 2
    assert (third["path"], third["cache"], third["pool"]) == ("cached", "exact", None)
    assert fourth == {
        "timestamp": fourth["timestamp"],
        "surface": "/v1/chat/completions",
        "status": 400,
        "code": refused.json["error"]["code"],
    }
    assert first["tenant"] != second["tenant"] == "anonymous"


async def test_a_line_holds_neither_prompt_nor_answer_nor_key(cluster, tmp_path):
    answer = await cluster.chat(SECRET, headers={"authorization": "Bearer sk-do-not-tell"})
    await lines(cluster, tmp_path)
    written = b"".join(path.read_bytes() for path in (tmp_path / "requests").glob("*.jsonl"))
    assert answer.headers["x-tidemill-decision-id"].encode() in written
    text = answer.json["choices"][0]["message"]["content"]
    for word in (SECRET, "sk-do-not-tell", text):
        assert word.encode() not in written


async def test_prompts_are_written_and_cut_only_where_the_configuration_asks_for_them(
    start_cluster, tmp_path
):
    cluster = await start_cluster({"logging": {"prompts": True, "prompt_chars_max": 12}})
    await cluster.chat("über den Fluss und in die Wälder")
    (line,) = await lines(cluster, tmp_path)
    assert line["prompt"] == "user\nüber de"


async def test_a_request_that_nobody_answers_has_its_line(start_cluster, tmp_path):
    cluster = await start_cluster(
        {"gateway": {"max_attempts": 1}}, stand_ins={"decode-0": "closed", "decode-1": "closed"}
    )
    await cluster.chat(SECRET)
    (line,) = await lines(cluster, tmp_path)
    assert (line["status"], line["path"], line["attempts"]) == (502, "combined", 1)
    assert "retried" in line["reasons"]


async def test_files_are_bounded_in_size_and_number(start_cluster, tmp_path):
    cluster = await start_cluster({"logging": {"file_bytes_max": 65536, "files_max": 2}})
    log = cluster.core.request_log
    for _ in range(12):
        for _ in range(100):
            log.refused(at_wall_s=0.0, surface=None, status=404, code="not_found")
        await log._lines._flush()
    sizes = [path.stat().st_size for path in (tmp_path / "requests").glob("*.jsonl")]
    assert 1 <= len(sizes) <= 2
    assert max(sizes) < 65536 + 100 * 120


async def test_what_the_disk_does_not_take_is_counted(start_cluster):
    cluster = await start_cluster({"logging": {"queue_max": 1}})
    for _ in range(3):
        cluster.core.request_log.refused(at_wall_s=0.0, surface=None, status=404, code=None)
    assert await cluster.metric("tidemill_log_lines_dropped_total") == 2


async def test_it_can_be_turned_off(start_cluster, tmp_path):
    cluster = await start_cluster({"logging": {"requests": False}})
    assert (await cluster.chat("hello")).status == 200
    await cluster.assert_idle()
    assert not (tmp_path / "requests").exists()


async def test_lines_of_many_at_once_are_whole(cluster, tmp_path):
    answers = await asyncio.gather(*(cluster.chat(f"hello {number}") for number in range(60)))
    found = await lines(cluster, tmp_path)
    assert Counter(line["status"] for line in found) == {200: 60}
    assert {line["decision_id"] for line in found} == {
        answer.headers["x-tidemill-decision-id"] for answer in answers
    }
