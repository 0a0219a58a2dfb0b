"""The decision log on disk and in memory: bounded, never in the way, and readable by the replay."""

import json
import os
from dataclasses import replace
from pathlib import Path as FilePath

import pytest

from cluster.config.decision_log import DecisionLogConfig
from cluster.config.routing import RoutingConfig
from cluster.entities.decision import Attempt, DecisionRecord, PathDecision, ReplicaDecision
from cluster.entities.pool import PoolName, ReplicaId, ReplicaView, Role
from cluster.entities.reasons import Reason
from cluster.entities.routing import Path
from cluster.entities.timeline import Timeline
from cluster.entities.workload import RequestSignals, Surface
from cluster.policy.disaggregation import choose_path
from cluster.policy.routing.replicas.policies import choose_replica
from cluster.replay import read_log, redecide
from deployments.router.records.decision_log import DecisionLog

FILE_BYTES_MAX = 64 * 1024
ROUTING = RoutingConfig()
SIGNALS = RequestSignals(
    surface=Surface.CHAT,
    model="sim",
    tenant="t",
    prompt_tokens=700,
    block_hashes=tuple(range(50)),
    block_tokens=16,
    splittable=True,
)


def views(role):
    return tuple(
        ReplicaView(
            replica_id=ReplicaId(f"{role}{number}"),
            pool=PoolName(role),
            role=role,
            pending_prefill_tokens=100 * number,
            decode_tokens=number,
            prefill_tokens_per_s=1000 / 3,
        )
        for number in range(3)
    )


def chosen(candidates, draw=0.25):
    choice = choose_replica(SIGNALS, candidates, ROUTING.replicas, now_s=2.5, draw=draw)
    return ReplicaDecision(
        prompt_tokens=700, candidates=candidates, decided_at_s=2.5, draw=draw, choice=choice
    )


def record(name="d-1", **changes):
    decode, prefill = views(Role.DECODE), views(Role.PREFILL)
    path = choose_path(SIGNALS, decode[0], prefill, ROUTING.disaggregation, now_s=2.5)
    made = DecisionRecord(
        decision_id=name,
        router="r",
        at_wall_s=1.75e9,
        signals=SIGNALS,
        cache="miss",
        path=Path.DISAGGREGATED,
        replica=chosen(decode),
        path_decision=PathDecision(decode=decode[0], prefill=prefill, decided_at_s=2.5, choice=path),
        prefill=chosen(prefill, draw=0.75),
        attempts=(Attempt(replica_id="decode0", role="decode", outcome="answered", started_at_s=2.6),),
        reasons=(Reason.CACHE_MISS,),
        status=200,
        timeline=Timeline(arrived_at_s=2.4, first_token_at_s=2.7, ended_at_s=1 / 3),
        config_hash="abc",
    )
    return replace(made, **changes)


@pytest.fixture
def dropped():
    return []


@pytest.fixture
def make_log(tmp_path, dropped):
    def make(name="r", folder=tmp_path, **changes):
        config = DecisionLogConfig(**{"file_bytes_max": FILE_BYTES_MAX, "files_max": 3, **changes})
        return DecisionLog(config, folder, name=name, on_drop=lambda: dropped.append(1))

    return make


def lines_of(path):
    with path.open(encoding="utf-8") as lines:
        return list(read_log(lines))


async def test_what_is_written_is_read_and_decided_again(make_log, tmp_path):
    log = make_log()
    log.start()
    for number in range(5):
        log.add(record(f"d-{number}"))
    await log.close()
    read = lines_of(tmp_path / "r.jsonl")
    without_hashes = replace(SIGNALS, block_hashes=())
    assert read == [record(f"d-{number}", signals=without_hashes) for number in range(5)]
    assert [redecide(again, ROUTING) for again in read] == [()] * 5


async def test_the_prompts_fingerprint_is_not_written(make_log, tmp_path):
    log = make_log()
    log.start()
    log.add(record(signals=replace(SIGNALS, block_hashes=(987654321,))))
    await log.close()
    assert "987654321" not in (tmp_path / "r.jsonl").read_text()
    assert b"987654321" not in await log.find("d-1")


async def test_rotation_bounds_files_and_bytes(make_log, tmp_path, dropped):
    log = make_log()
    log.start()
    batch = 20
    size = len(json.dumps(json.loads(await found(log, record("d-0")))))
    for first in range(0, 400, batch):
        for number in range(first, first + batch):
            log.add(record(f"d-{number}"))
        await log._lines._flush()
        files = sorted(path.name for path in tmp_path.iterdir())
        assert len(files) <= 3
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 3 * (FILE_BYTES_MAX + batch * size)
    await log.close()
    oldest_first = [tmp_path / name for name in ("r.2.jsonl", "r.1.jsonl", "r.jsonl")]
    ids = [int(again.decision_id[2:]) for path in oldest_first if path.exists() for again in lines_of(path)]
    assert ids == list(range(ids[0], 400))
    assert ids[0] > 0
    assert dropped == []


async def found(log, made):
    log.add(made)
    return await log.find(made.decision_id)


async def test_one_file_is_a_bound_as_well(make_log, tmp_path):
    log = make_log(files_max=1)
    log.start()
    for number in range(100):
        log.add(record(f"d-{number}"))
        await log._lines._flush()
    await log.close()
    assert {path.name for path in tmp_path.iterdir()} <= {"r.jsonl"}


async def test_what_does_not_fit_into_the_waiting_line_is_dropped_and_counted(make_log, tmp_path, dropped):
    log = make_log(queue_max=3)
    log.start()
    for number in range(5):
        log.add(record(f"d-{number}"))
    assert len(dropped) == 2
    assert await log.find("d-4") is not None
    await log.close()
    assert [again.decision_id for again in lines_of(tmp_path / "r.jsonl")] == ["d-0", "d-1", "d-2"]


async def test_memory_holds_the_latest(make_log):
    log = make_log(memory_records_max=2, enabled=False)
    for number in range(4):
        log.add(record(f"d-{number}"))
    assert [await log.find(f"d-{number}") is not None for number in range(4)] == [False, False, True, True]
    assert len(log._latest) == 2


async def test_switched_off_writes_nothing_and_drops_nothing(make_log, tmp_path, dropped):
    log = make_log(enabled=False)
    log.start()
    log.add(record())
    await log.close()
    assert list(tmp_path.iterdir()) == []
    assert dropped == []
    assert json.loads(await log.find("d-1"))["decision_id"] == "d-1"


async def test_without_a_folder_records_stay_in_memory(make_log):
    log = make_log(folder=None)
    log.start()
    log.add(record())
    await log.close()
    assert await log.find("d-1") is not None
    assert await log.find("d-2") is None


async def test_what_memory_has_forgotten_is_found_in_the_files(make_log):
    log = make_log(memory_records_max=1)
    log.start()
    for number in range(60):
        log.add(record(f"d-{number}"))
        await log._lines._flush()
    assert json.loads(await log.find("d-30"))["decision_id"] == "d-30"
    assert await log.find("d-3") is None or json.loads(await log.find("d-3"))["decision_id"] == "d-3"
    assert await log.find("d-") is None
    assert await log.find('d-1","') is None
    await log.close()


async def test_records_of_other_routers_are_found_in_their_files(make_log):
    one, two = make_log("one"), make_log("two")
    one.start()
    one.add(record("d-of-one", router="one"))
    await one.close()
    assert json.loads(await two.find("d-of-one"))["router"] == "one"


async def test_a_folder_that_cannot_be_made_costs_no_request_and_is_tried_again(make_log, tmp_path, dropped):
    (tmp_path / "file").write_text("in the way")
    log = make_log(folder=tmp_path / "file" / "decisions")
    log.start()
    log.add(record("d-1"))
    log.add(record("d-2"))
    await log._lines._flush()
    assert len(dropped) == 2
    assert await log.find("d-1") is not None
    (tmp_path / "file").unlink()
    log.add(record("d-3"))
    await log.close()
    assert [r.decision_id for r in lines_of(tmp_path / "file" / "decisions" / "r.jsonl")] == ["d-3"]


async def test_a_full_disk_costs_records_and_no_request(make_log, monkeypatch, dropped):
    log = make_log()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(log._lines, "_write", full)
    log.start()
    log.add(record("d-1"))
    await log._lines._flush()
    assert len(dropped) == 1
    monkeypatch.undo()
    log.add(record("d-2"))
    await log.close()
    assert len(dropped) == 1
    assert await log.find("d-1") is not None


async def test_a_torn_line_does_not_spoil_what_follows(make_log, tmp_path):
    (tmp_path / "r.jsonl").write_text('{"decision_id":"d-torn","router')
    log = make_log()
    log.start()
    log.add(record("d-1"))
    log.add(record("d-2"))
    await log.close()
    readable = [
        line
        for line in (tmp_path / "r.jsonl").read_text().splitlines()
        if line.startswith('{"decision_id":"d-')
    ]
    whole = [again.decision_id for line in readable if '"d-torn"' not in line for again in read_log([line])]
    assert whole == ["d-1", "d-2"]


async def test_files_are_written_in_the_background(make_log, tmp_path, monkeypatch):
    monkeypatch.setattr("deployments.router.records.json_lines._FLUSH_PERIOD_S", 0.0)
    log = make_log()
    written = []
    write = log._lines._write

    def note(*given):
        write(*given)
        written.append(1)

    monkeypatch.setattr(log._lines, "_write", note)
    log.start()
    log.add(record())
    while not written:
        await log.find("d-none")
    assert (tmp_path / "r.jsonl").exists()
    await log.close()


async def test_for_a_late_decision_early_files_are_not_read(make_log, tmp_path, monkeypatch):
    read = []
    real_open = FilePath.open

    def noted(path, *arguments, **named):
        read.append(path.name)
        return real_open(path, *arguments, **named)

    log = make_log()
    for name, written_at_s in (("early.jsonl", 1_000_000.0), ("late.jsonl", 2_000_000.0)):
        (tmp_path / name).write_bytes(b'{"decision_id":"d-nobody"}\n')
        os.utime(tmp_path / name, (written_at_s, written_at_s))
    monkeypatch.setattr(FilePath, "open", noted)
    assert await log.find(f"d-{1_500_000_000:012x}-0000000000") is None
    assert read == ["late.jsonl"]
    assert await log.find("d-nobody") is not None
