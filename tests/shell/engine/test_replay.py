"""The replay of traces, against the simulated engine: times, tenants, warm-up, files, intervals."""

import asyncio
import re
from xml.etree import ElementTree as ET

import numpy as np
import orjson
import pytest

from load_tests import replay as command
from load_tests.intervals import percentile_intervals
from load_tests.prompts import prompt_of_blocks


@pytest.fixture
def trace(tmp_path):
    lines = ["TIMESTAMP,ContextTokens,GeneratedTokens"]
    lines += [
        f"2023-11-16 18:15:{46 + number / 40:09.6f}0,{20 + number},{4 + number % 3}" for number in range(40)
    ]
    path = tmp_path / "azure.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


async def run(*arguments):
    """The command, on a thread of its own because it brings its own event loop."""
    return await asyncio.to_thread(command.main, [str(argument) for argument in arguments])


async def test_a_trace_is_replayed_in_its_time_and_told_by_tenant(url, trace, tmp_path, capsys):
    (tmp_path / "key").write_text("sk-1\n")
    results, page = tmp_path / "r.jsonl", tmp_path / "r.html"
    status = await run(
        *("--trace", trace, "--url", url, "--model", "sim", "--warm-up-s", "0.25", "--json"),
        *(
            "--tenant",
            f"one=3:{tmp_path / 'key'}",
            "--tenant",
            "other=1",
            "--slo-ttft",
            "10",
            "--slo-tpot",
            "10",
        ),
        *("--results", results, "--report", page),
    )
    assert status == 0
    told = orjson.loads(capsys.readouterr().out)
    assert told["benchmark"] == "replay"
    assert "sk-1" not in orjson.dumps(told).decode()
    every, one, other = told["rows"]
    assert (every["tenant"], one["tenant"], other["tenant"]) == ("all", "one", "other")
    assert every["requests"] == 30, "a quarter of a second of 40 a second is warm-up"
    assert one["requests"] + other["requests"] == 30
    assert one["requests"] > other["requests"]
    assert (every["failures"], every["attainment"]) == (0, 1.0)
    assert every["ttft_p50_s_low"] <= every["ttft_p50_s"] <= every["ttft_p50_s_high"]
    assert 0 < every["itl_p50_s"] < 0.2
    assert every["goodput_per_s"] == pytest.approx(30 / (39 / 40 - 0.25), rel=1e-3)
    head, *lines = [orjson.loads(line) for line in results.read_bytes().splitlines()]
    assert head["run"]["commit"] == told["commit"]
    assert len(lines) == 40
    assert [line["counts"] for line in lines] == [False] * 10 + [True] * 30
    assert [line["output_tokens"] for line in lines] == [4 + number % 3 for number in range(40)]
    assert {line["kind"] for line in lines} == {"ok"}


async def test_the_report_is_one_page_with_plots(url, trace, tmp_path, capsys):
    page = tmp_path / "r.html"
    await run("--trace", trace, "--url", url, "--model", "sim", "--report", page)
    text = page.read_text()
    drawings = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(drawings) == 2
    assert all(ET.fromstring(drawing).tag.endswith("svg") for drawing in drawings)
    assert not re.search(r"(src|href)=\"https?:", text)
    assert "attainment" in capsys.readouterr().out


async def test_what_fails_is_no_goodput(url, trace, capsys):
    await run("--trace", trace, "--url", url, "--model", "another", "--json")
    (row,) = orjson.loads(capsys.readouterr().out)["rows"]
    assert (row["requests"], row["failures"], row["goodput_per_s"], row["attainment"]) == (40, 40, 0.0, 0.0)
    assert row["failure_kinds"] == {"http_404": 40}
    assert "ttft_p50_s" not in row


async def test_a_bound_on_gaps_counts_as_well(url, trace, capsys):
    await run("--trace", trace, "--url", url, "--model", "sim", "--slo-itl", "0", "--json")
    (row,) = orjson.loads(capsys.readouterr().out)["rows"]
    assert (row["failures"], row["attainment"]) == (0, 0.0)


async def test_a_rate_squeezes_the_trace(url, trace, capsys):
    await run("--trace", trace, "--url", url, "--model", "sim", "--rate", "400", "--json")
    (row,) = orjson.loads(capsys.readouterr().out)["rows"]
    assert row["requests_per_s"] == pytest.approx(40 / (40 / 400), rel=0.1)


@pytest.mark.parametrize("wrong", ["one", "one=0", "=1", "one=x", "one=1:/no/such/file"])
def test_a_wrong_tenant_is_refused(wrong, trace):
    with pytest.raises(SystemExit):
        command.main(["--trace", str(trace), "--url", "http://127.0.0.1:1", "--tenant", wrong])


def test_equal_blocks_are_equal_text():
    one = prompt_of_blocks((1, 2, 3), 16, tokens=48)
    other = prompt_of_blocks((1, 2, 4), 16, tokens=40)
    assert one[: 2 * 16 * 4] == other[: 2 * 16 * 4]
    assert one[2 * 16 * 4 :][:8] != other[2 * 16 * 4 :][:8]
    assert (len(one), len(other)) == (48 * 4, 40 * 4)


def test_intervals_hold_the_true_percentile_as_often_as_they_say():
    rng = np.random.default_rng(7)
    held = 0
    for number in range(200):
        values = rng.exponential(1.0, 150)
        (interval,) = percentile_intervals([[v] for v in values], (0.5,), seed=number, resamples=200).values()
        held += interval.low <= np.log(2) <= interval.high
    assert 178 <= held <= 199, "95 % of 200, within three standard deviations"


def test_gaps_are_drawn_with_their_request():
    """Ten requests whose gaps are all alike tell as much as ten gaps, not as a thousand."""
    rng = np.random.default_rng(3)
    alike = [[value] * 100 for value in rng.exponential(1.0, 10)]
    apart = [[value] for value in np.concatenate(alike)]
    (wide,) = percentile_intervals(alike, (0.5,), seed=0).values()
    (narrow,) = percentile_intervals(apart, (0.5,), seed=0).values()
    assert wide.value == narrow.value
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
    assert percentile_intervals([[], []], (0.5,), seed=0) == {}
