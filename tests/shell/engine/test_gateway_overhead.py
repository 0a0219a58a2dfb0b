"""The comparison of gateways, with servers of the same speed in place of them: what it measures and tells."""

import asyncio
import contextlib
import sys

import pytest

from cluster.config.pools import SimulatedEngine
from cluster.entities.pool import Role
from deployments.engine.simulated import SimulatedApp
from deployments.http_port import HttpPort
from load_tests import gateway_overhead
from load_tests.client import parse_target
from load_tests.gateway_overhead import Plan, compare, table
from load_tests.peers.gateways import GATEWAYS, Gateway, PeerError, Start
from load_tests.peers.site import PEERS, Site, _add, _installed

DELAY_S = 0.02
SLOW_GATEWAY = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        allowed = self.headers.get("authorization") == "Bearer the-key"
        self.send_response(200 if allowed else 401)
        self.end_headers()
        self.wfile.write(b"{}")
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


class Slower:
    """A gateway that adds a known time."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            await asyncio.sleep(DELAY_S)
        await self.app(scope, receive, send)


@pytest.fixture
async def site():
    config = SimulatedEngine(prefill_tokens_per_s=1e9, step_base_s=0, step_per_sequence_s=0)
    app = SimulatedApp(config, model="sim", role=Role.COMBINED)
    ports = [HttpPort(one, host="127.0.0.1") for one in (app.app, Slower(app.app))]
    for port in ports:
        await port.start()
    targets = {name: parse_target(port.url) for name, port in zip(("engine", "slower"), ports, strict=True)}
    yield Site(model="sim", targets=targets)
    for port in ports:
        await port.stop(grace_s=0.2)


async def test_what_a_gateway_adds_is_what_it_adds(site, monkeypatch):
    monkeypatch.setattr(gateway_overhead, "_WARM_UP_REQUESTS", 8)
    plan = Plan(concurrencies=(1, 4), rounds=2, arm_s=0.12, output_tokens=5)
    rows = await compare(site, plan)
    assert [(row["policy"], row["mode"], row["concurrency"]) for row in rows] == [
        (name, mode, concurrency)
        for mode in ("unary", "stream")
        for concurrency in (1, 4)
        for name in ("engine", "slower")
    ]
    for engine, slower in zip(rows[::2], rows[1::2], strict=True):
        assert engine["added_p50_s"] == 0.0
        assert DELAY_S * 0.9 < slower["added_p50_s"] < DELAY_S * 3
        assert slower["added_p50_s_min"] <= slower["added_p50_s"] <= slower["added_p50_s_max"]
        assert slower["tokens_per_s"] < engine["tokens_per_s"]
        assert (engine["failures"], slower["failures"]) == (0, 0)
    streams = [row for row in rows if row["mode"] == "stream"]
    assert all(row["tokens_per_s"] == pytest.approx(5 * row["requests_per_s"], rel=0.01) for row in streams)
    assert "slower" in table(rows)


def test_no_load_sends_prompts_that_an_earlier_one_left_in_the_cache():
    plan = Plan(rounds=2)
    loads = [
        plan.load(mode, concurrency, model="sim", number=number)
        for mode in plan.modes
        for concurrency in plan.concurrencies
        for number in range(plan.rounds + 1)
    ]
    assert len({load.seed for load in loads}) == len(loads)


async def test_a_gateway_that_fails_is_told_and_has_no_latency(site):
    site.targets["slower"] = parse_target("http://127.0.0.1:9")
    rows = await compare(site, Plan(modes=("unary",), concurrencies=(1,), rounds=1, arm_s=0.1))
    assert rows[1]["failures"] > 0
    assert rows[1]["added_p50_s"] is None
    assert rows[0]["added_p50_s"] == 0.0
    assert table(rows)


def gateway(*command, api_key=None, program="none"):
    def start(_program, _engines, _model, port, _folder):
        return Start(command=(*command, str(port)), api_key=api_key)

    return Gateway(name="other", package="none==0", program=program, start=start)


async def added(site, tmp_path, one):
    async with contextlib.AsyncExitStack() as stack:
        await _add(one, "http://127.0.0.1:9", site, tmp_path, stack)
        return dict(site.targets), dict(site.api_keys), dict(site.absent)


async def test_a_gateway_is_started_with_its_key_and_stopped(tmp_path):
    one = gateway(sys.executable, "-c", SLOW_GATEWAY, api_key="the-key")
    targets, keys, absent = await added(Site(model="sim"), tmp_path, one)
    assert (list(targets), keys, absent) == (["other"], {"other": "the-key"}, {})
    with pytest.raises(OSError, match=r"refused|Connect"):
        await asyncio.open_connection(targets["other"].host, targets["other"].port)


async def test_one_that_ends_instead_of_starting_is_left_out_at_once(tmp_path, capsys):
    one = gateway(sys.executable, "-c", "import sys; sys.exit('no licence')")
    targets, _, absent = await added(Site(model="sim"), tmp_path, one)
    assert not targets
    assert "ended with status 1" in absent["other"]
    assert "no licence" in capsys.readouterr().err


def test_what_is_not_installed_is_said_and_not_measured(tmp_path, monkeypatch):
    monkeypatch.setattr("load_tests.peers.gateways.VENVS", tmp_path)
    site = Site(model="sim")
    assert _installed(GATEWAYS, site, install=False) == []
    assert set(site.absent) == {gateway.name for gateway in GATEWAYS}
    assert all("--install" in why for why in site.absent.values())

    def fails(_):
        raise PeerError("pip failed")

    monkeypatch.setattr(Gateway, "install", fails)
    assert _installed(GATEWAYS, site, install=True) == []
    assert set(site.absent.values()) == {"pip failed"}


def test_unknown_peers_are_refused(capsys):
    with pytest.raises(SystemExit):
        gateway_overhead.main(["--peers", "nginx"])
    assert ", ".join(PEERS) in capsys.readouterr().err
