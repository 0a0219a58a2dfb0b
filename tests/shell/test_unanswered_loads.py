"""Loads that are sent to where nobody listens."""

import json
from importlib import import_module

import pytest


@pytest.mark.parametrize("module", ["closed_loop", "open_loop", "replay"])
def test_a_load_that_nobody_answers_says_so_and_has_a_status(module, capsys, tmp_path):
    trace = tmp_path / "trace.jsonl"
    trace.write_text('{"timestamp": 0, "input_length": 5, "output_length": 2}\n', encoding="utf-8")
    asked = {
        "closed_loop": ["--model", "m", "--requests", "2", "--concurrency", "1"],
        "open_loop": ["--model", "m", "--trace", str(trace)],
        "replay": ["--trace", str(trace)],
    }[module]
    status = import_module(f"load_tests.{module}").main(["--url", "http://127.0.0.1:1/v1", *asked, "--json"])
    told = capsys.readouterr()
    assert status == 1
    assert "no request was answered by http://127.0.0.1:1" in told.err
    (row,) = json.loads(told.out)["rows"]
    assert row["failures"] == row["requests"] > 0
    assert {"case", "policy", "seed"} <= row.keys()
