"""`tidemill bench` against an engine on a port: what it prints, and how it ends."""

import asyncio

import orjson
from typer.testing import CliRunner

from operators.cli.app import app


async def bench(url, *arguments):
    return await asyncio.to_thread(CliRunner().invoke, app, ["bench", "--url", url, *arguments])


async def test_it_asks_the_first_model_and_prints_rates_and_latencies(url):
    done = await bench(url, "-n", "12", "-c", "3", "--output-tokens", "4")
    assert done.exit_code == 0, done.output
    assert "sim: streams of 4 tokens, 3 at a time" in done.output
    assert "12 of 12 answered" in done.output
    for words in ("time to first token", "gap between tokens", "tokens/s", "path: none 12"):
        assert words in done.output


async def test_json_has_the_form_of_benchmarks(url):
    done = await bench(url, "-n", "6", "--whole", "--json")
    told = orjson.loads(done.stdout)
    (row,) = told["rows"]
    assert (told["benchmark"], row["completed"], row["failures"]) == ("bench", 6, 0)
    assert 0 < row["e2e_p50_s"] <= row["e2e_p99_s"]
    assert (row["case"], row["policy"], row["seed"]) == ("closed_loop", "gateway", 0)
    assert row["places"]["path"] == {"none": 6}
    assert told["load"]["stream"] is False


async def test_failures_are_told_and_are_the_exit_status(url):
    done = await bench(url, "-n", "5", "-m", "another")
    assert done.exit_code == 1
    assert "failed: http_404 5" in done.output


async def test_another_machine_is_refused_in_words():
    done = await bench("http://tidemill.example:8000")
    assert done.exit_code == 1
    assert "forward its port" in done.output
    nobody = await bench("http://127.0.0.1:9")
    assert (nobody.exit_code, "does not answer" in nobody.output) == (1, True)
