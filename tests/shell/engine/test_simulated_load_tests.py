"""The load tests' client and loops, against the simulated engine and against servers that fail."""

import asyncio
import gzip
import itertools
import random

import pytest

from cluster.config.pools import SimulatedEngine
from cluster.entities.pool import Role
from cluster.entities.timeline import Timeline
from cluster.simulation.traffic.trace import TraceError
from deployments.engine.simulated import SimulatedApp
from deployments.http_port import HttpPort
from load_tests.client import Outcome, StreamClient, parse_target
from load_tests.closed_loop import ClosedLoad, run_closed
from load_tests.open_loop import OpenLoad, report, run_open
from load_tests.prompts import unique_prompt
from load_tests.summary import goodput, percentile, summarise
from load_tests.traces import Arrival, poisson, read_trace

CHAT = {"model": "sim", "messages": [{"role": "user", "content": "tide"}], "max_tokens": 8}


@pytest.fixture
async def target():
    config = SimulatedEngine(prefill_tokens_per_s=1e6, step_base_s=0.004, step_per_sequence_s=0)
    port = HttpPort(SimulatedApp(config, model="sim", role=Role.COMBINED).app, host="127.0.0.1")
    await port.start()
    yield parse_target(port.url)
    await port.stop(grace_s=0.2)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/v1", "http://localhost:1", "http://[::1]:1/x"])
def test_this_machine_is_a_target(url):
    assert parse_target(url).port == 1


@pytest.mark.parametrize(
    "url", ["http://10.0.0.1:1", "http://example.org:80", "https://127.0.0.1:1", "http://127.0.0.1", "x"]
)
def test_any_other_machine_is_refused(url):
    with pytest.raises(ValueError, match="http"):
        parse_target(url)


async def test_the_client_times_every_token(target):
    client = StreamClient(target)
    streamed = await client.send({**CHAT, "stream": True})
    whole = await client.send(CHAT)
    client.close()
    assert streamed.ok
    assert whole.text == streamed.text
    assert streamed.timeline.output_tokens == whole.timeline.output_tokens == 8
    assert len(streamed.itl_s) == 7
    assert 0.0004 < (streamed.timeline.tpot_s or 0) < 0.2, "4 ms each, however busy this machine is"
    assert 0 < (streamed.timeline.ttft_s or 0) < (streamed.timeline.e2e_s or 0)


async def test_errors_are_outcomes(target):
    client = StreamClient(target, timeout_s=0.05)
    assert (await client.send({**CHAT, "model": "other", "stream": True})).kind == "http_404"
    assert (await client.send({**CHAT, "max_tokens": 5000, "stream": True})).kind == "timeout"
    client.close()


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"", "cut"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ndata", "cut"),
        (b'HTTP/1.1 200 OK\r\nContent-Length: 24\r\n\r\ndata: {"error":{"a":1}}\n\n', "cut"),
        (b'HTTP/1.1 200 OK\r\nContent-Length: 25\r\n\r\ndata: {"error":{"a":1}}\n\n', "error_event"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\ndata: {\n", "cut"),
        (b"nonsense\r\n\r\n", "cut"),
    ],
)
async def test_a_stream_without_its_end_is_no_success(answer, kind):
    async def handle(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    outcome = await StreamClient(parse_target(f"http://127.0.0.1:{port}")).send({**CHAT, "stream": True})
    server.close()
    assert outcome.kind == kind
    assert (await StreamClient(parse_target(f"http://127.0.0.1:{port}")).send(CHAT)).kind == "connect"


async def test_the_closed_loop_keeps_its_concurrency_and_its_count(target):
    load = ClosedLoad(model="sim", concurrency=4, requests=10, output_tokens=5)
    outcomes, elapsed_s = await run_closed(target, load)
    summary = summarise(outcomes, elapsed_s=elapsed_s)
    assert summary["completed"] == 10
    assert summary["output_tokens"] == 50
    assert not summary["failures"]
    latest_start = max(outcome.timeline.arrived_at_s for outcome in outcomes)
    first_end = min(outcome.timeline.ended_at_s or 0.0 for outcome in outcomes)
    assert latest_start >= first_end


async def test_the_open_loop_counts_waiting_and_what_it_could_not_send(target):
    arrivals = [Arrival(at_s=0.01 * number, prompt_tokens=20, output_tokens=30) for number in range(8)]
    run = await run_open(target, arrivals, OpenLoad(model="sim", in_flight_max=2))
    result = report(run, slo_ttft_s=1.0, slo_tpot_s=1.0)
    assert result["requests"] == 8
    assert result["failures"]["client_full"] == 8 - result["completed"] > 0
    assert result["goodput"]["attainment"] == pytest.approx(result["completed"] / 8)


async def test_the_open_loop_ends_with_its_duration(target):
    endless = poisson(requests_per_s=100, prompt_tokens=5, output_tokens=1, seed=1)
    run = await run_open(target, endless, OpenLoad(model="sim", duration_s=0.2, rate_scale=2))
    assert 15 < len(run.outcomes) < 80


def test_poisson_arrivals_have_their_rate_and_their_seed():
    draws = [
        list(itertools.islice(poisson(requests_per_s=50, prompt_tokens=1, output_tokens=1, seed=seed), 5000))
        for seed in (1, 1, 2)
    ]
    assert draws[0] == draws[1] != draws[2]
    assert draws[0][-1].at_s == pytest.approx(100, rel=0.05)


def test_the_csv_trace_is_read(tmp_path):
    path = tmp_path / "t.csv.gz"
    rows = "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n"
    path.write_bytes(gzip.compress(f"TIMESTAMP,ContextTokens,GeneratedTokens\n{rows}".encode()))
    first, second = read_trace(path, requests_max=10)
    assert (first.at_s, first.prompt_tokens, first.output_tokens) == (0.0, 374, 44)
    assert second.at_s == pytest.approx(4.314579)


def test_requests_of_one_instant_are_spread_up_to_the_next(tmp_path):
    path = tmp_path / "t.jsonl.gz"
    line = '{"timestamp": %d, "input_length": 5, "output_length": 6, "hash_ids": [1]}\n'
    path.write_bytes(gzip.compress((line % 1000 * 3 + line % 4000).encode()))
    assert [arrival.at_s for arrival in read_trace(path, requests_max=10)] == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b""),
        ("a.csv.gz", b"no gzip"),
        ("a.csv.gz", gzip.compress(b"A,B\n1,2\n", mtime=0)),
        ("a.jsonl.gz", gzip.compress(b"{}\n", mtime=0)),
        ("a.jsonl.gz", gzip.compress(b"", mtime=0)),
    ],
)
def test_what_is_no_trace_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TraceError, match=name):
        read_trace(tmp_path / name, requests_max=10)


def test_prompts_have_their_length_and_differ_from_the_start():
    rng = random.Random(0)
    prompts = [unique_prompt(rng, number, tokens=100) for number in range(50)]
    assert {len(prompt) for prompt in prompts} == {400}
    assert len({prompt[:16] for prompt in prompts}) == 50


def test_percentiles_interpolate():
    assert percentile([4.0, 1.0, 3.0, 2.0], 0.5) == 2.5
    assert percentile([7.0], 0.99) == 7.0


def test_goodput_needs_both_bounds_and_a_whole_answer():
    def outcome(ttft_s, tpot_s, kind="ok"):
        timeline = Timeline(
            arrived_at_s=0.0, first_token_at_s=ttft_s, ended_at_s=ttft_s + tpot_s * 10, output_tokens=11
        )
        return Outcome(kind=kind, timeline=timeline)

    outcomes = [outcome(1, 0.1), outcome(3, 0.1), outcome(1, 0.3), outcome(1, 0.1, "cut")]
    met = goodput(outcomes, elapsed_s=2.0, ttft_max_s=2.0, tpot_max_s=0.2)
    assert (met["met"], met["goodput_per_s"], met["attainment"]) == (1, 0.5, 0.25)
