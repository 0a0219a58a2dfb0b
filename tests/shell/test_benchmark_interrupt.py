"""Ctrl-C and a request to end, while a benchmark works in several processes."""

import json
import os
import signal
import subprocess
import sys

import psutil
import pytest


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "trace.jsonl"
    rows = [
        {"timestamp": 500 * number, "input_length": 900, "output_length": 40, "hash_ids": [0, number]}
        for number in range(100)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("jobs", "sent", "to", "status"),
    [
        (1, signal.SIGINT, "group", 130),
        (2, signal.SIGINT, "group", 130),
        (2, signal.SIGINT, "process", 130),
        (2, signal.SIGTERM, "group", 143),
        (2, signal.SIGTERM, "process", 143),
    ],
)
def test_an_interrupted_benchmark_ends_with_its_workers_and_without_a_traceback(
    trace, jobs, sent, to, status
):
    command = (
        "-m",
        "load_tests.replica_routing",
        "--trace",
        str(trace),
        "--seeds",
        "1000",
        "--jobs",
        str(jobs),
    )
    running = subprocess.Popen(
        # a program in the background of a shell ignores interrupts, and so would what this test starts there
        [
            "env",
            "--default-signal=INT",
            sys.executable,
            *command,
            "--policies",
            "min_work",
            "--replicas",
            "2",
            "--json",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert "[1/1000" in running.stderr.readline()
        workers = psutil.Process(running.pid).children(recursive=True)
        assert len(workers) == (2 if jobs == 2 else 0)
        (os.killpg if to == "group" else os.kill)(running.pid, sent)
        out, told = running.communicate(timeout=20)
    finally:
        running.kill()
    assert running.returncode == status
    assert "Traceback" not in told
    assert out == ""
    _, left = psutil.wait_procs(workers, timeout=5)
    assert not left
