"""The pager around the simulated engine, over real HTTP."""

import asyncio
import base64
import contextlib
import json
import struct
from pathlib import Path

import aiohttp
import pytest

from cluster.config import parse_config
from cluster.entities.adapters import AdapterOutcome, AdapterPlacement
from cluster.entities.pool import Role
from cluster.replay.codec import encode
from deployments import adapter_messages as wire
from deployments import messages
from deployments.engine.paging import configured_catalogue, paged
from deployments.engine.simulated import SimulatedApp
from deployments.http_port import HttpPort
from tests.adapter_files import write_adapter

CONFIG = """
models: {{sim: {{source: simulated}}}}
pools:
  only:
    model: sim
    engine: {{kind: simulated, step_base_s: 0.002, prefill_tokens_per_s: 1000000}}
    adapters: {{slots: 2, drain_s: 0.2, park_timeout_s: {park_timeout_s}}}
adapters:
  paging: {{dimension: 4}}
  catalogue:
    a: {{base_model: sim, source: "{folder}/a"}}
    b: {{base_model: sim, source: "{folder}/b"}}
    c: {{base_model: sim, source: "{folder}/c"}}
    broken: {{base_model: sim, source: "{folder}/missing"}}
"""


class Served:
    """A replica's port without Ray."""

    def __init__(self, url, session, engine, found, config):
        self.url = url
        self.session = session
        self.engine = engine
        self.pager = found.pager
        self.config = config

    async def post(self, path, body, **headers):
        async with self.session.post(self.url + path, json=body, headers=headers) as response:
            return response.status, response.headers, await response.json()

    async def chat(self, model, *, tokens=2, **headers):
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": tokens}
        return await self.post("/v1/chat/completions", body, **headers)

    async def get(self, path, **headers):
        async with self.session.get(self.url + path, headers=headers) as response:
            return response.status, response.headers, await response.read()

    async def put(self, path, body):
        async with self.session.put(self.url + path, json=body) as response:
            return response.status, await response.json()


@contextlib.asynccontextmanager
async def replica(folder: Path, monkeypatch, *, park_timeout_s=5):
    for seed, name in enumerate("abc"):
        write_adapter(folder / name, seed)
    monkeypatch.setenv("TIDEMILL_CACHE", str(folder / "cache"))
    config = parse_config(CONFIG.format(folder=folder, park_timeout_s=park_timeout_s))
    app = SimulatedApp(config.pools["only"].engine, model="sim", role=Role.COMBINED, adapter_slots=2)
    found = await paged(app, app.adapters, config=config, pool_name="only", state_dir=str(folder / "state"))
    port = HttpPort(found.app, host="127.0.0.1")
    await port.start()
    async with aiohttp.ClientSession() as session:
        try:
            yield Served(port.url, session, app, found, config)
        finally:
            await port.stop(grace_s=0.1)
            await found.stop()


async def test_an_adapter_answers_under_its_name_and_differently_from_the_base(tmp_path, monkeypatch):
    async with replica(tmp_path, monkeypatch) as served:
        texts = {}
        for model in ("sim", "sim:a", "sim:b", "sim:c", "sim:a"):
            status, headers, body = await served.chat(model)
            assert status == 200
            assert body["model"] == model
            text = body["choices"][0]["message"]["content"]
            assert texts.setdefault(model, text) == text
            assert headers.get(messages.ADAPTER_SERVED, "") == model.partition(":")[2]
        assert len(set(texts.values())) == 4
        assert (served.engine.adapters.engine_evictions, served.engine.adapters.engine_loads) == (0, 0)


async def test_an_answer_says_where_the_adapter_was_and_how_long_it_took(tmp_path, monkeypatch):
    async with replica(tmp_path, monkeypatch) as served:
        _, cold, _ = await served.chat("sim:a")
        _, warm, _ = await served.chat("sim:a")
        assert cold[messages.ADAPTER_TIER] != "device"
        assert float(cold[messages.ADAPTER_WAIT]) > 0
        assert warm[messages.ADAPTER_TIER] == "device"
        assert float(warm[messages.ADAPTER_WAIT]) == 0


async def test_streams_pass(tmp_path, monkeypatch):
    async with replica(tmp_path, monkeypatch) as served:
        body = {"model": "sim:a", "prompt": "hi", "max_tokens": 5, "stream": True}
        async with served.session.post(f"{served.url}/v1/completions", json=body) as response:
            text = await response.text()
        assert text.count("data: {") >= 5
        assert "[DONE]" in text
        assert served.pager.running == 0


async def test_an_unknown_adapter_is_a_404_in_openai_s_shape(tmp_path, monkeypatch):
    async with replica(tmp_path, monkeypatch) as served:
        status, headers, body = await served.chat("sim:nobody")
        assert status == 404
        assert body["error"]["message"] == "The model `sim:nobody` does not exist."
        assert body["error"]["param"] == "model"
        assert headers[messages.ADAPTER_REFUSED] == "adapter_not_found"


async def test_a_source_that_is_not_there_is_said_and_others_are_served(tmp_path, monkeypatch):
    async with replica(tmp_path, monkeypatch) as served:
        status, _, body = await served.chat("sim:broken")
        assert status == 500
        assert "no adapter_config.json in this folder" in body["error"]["message"]
        assert (await served.chat("sim:a"))[0] == 200


async def test_waiting_for_too_long_is_a_503_with_retry_after(tmp_path, monkeypatch):
    async with replica(tmp_path, monkeypatch, park_timeout_s=0.5) as served:
        long = [asyncio.create_task(served.chat(f"sim:{name}", tokens=800)) for name in "ab"]
        async with asyncio.timeout(10):
            while served.pager.running < 2:
                await asyncio.sleep(0.01)
        status, headers, body = await served.chat("sim:c")
        assert (status, headers["retry-after"]) == (503, "1")
        assert body["error"]["code"] == "adapter_wait_timed_out"
        await asyncio.gather(*long)


async def test_a_client_that_leaves_while_parked_frees_its_place(tmp_path, monkeypatch):
    async with replica(tmp_path, monkeypatch) as served:
        long = [asyncio.create_task(served.chat(f"sim:{name}", tokens=400)) for name in "ab"]
        async with asyncio.timeout(10):
            while served.pager.running < 2:
                await asyncio.sleep(0.01)
            leaving = asyncio.create_task(served.chat("sim:c"))
            while not served.pager.shelf.parked:
                await asyncio.sleep(0.005)
            leaving.cancel()
            while served.pager.shelf.parked:
                await asyncio.sleep(0.005)
        await asyncio.gather(*long)
        assert served.pager.running == 0


async def test_tokens_are_the_base_model_s_and_need_no_slot(tmp_path, monkeypatch):
    async with replica(tmp_path, monkeypatch) as served:
        status, _, body = await served.post("/tokenize", {"model": "sim:a", "prompt": "hello"})
        assert status == 200
        assert body["count"] > 0
        assert served.pager.loop.page_ins == 0


async def test_the_status_page_shows_where_everything_is(tmp_path, monkeypatch):
    async with replica(tmp_path, monkeypatch) as served:
        await served.chat("sim:a")
        async with served.session.get(served.url + wire.STATUS_PATH) as response:
            page = await response.json()
        tiers = {entry["name"]: entry["tier"] for entry in page["adapters"]}
        assert tiers["a"] == "device"
        assert tiers["broken"] == "remote"
        assert page["page_ins"] == 1
        assert {r.name: r.tier for r in served.pager.residency()}["a"] == "device"


async def test_metrics_stand_beside_the_engine_s(tmp_path, monkeypatch):
    async with replica(tmp_path, monkeypatch) as served:
        await served.chat("sim:a")
        status, headers, body = await served.get("/metrics", accept="application/openmetrics-text")
        text = body.decode()
        assert status == 200
        assert headers["content-type"].startswith("text/plain")
        assert "vllm:num_requests_running" in text
        assert 'tidemill_adapter_resident_entries{adapter="a",pinned="false"} 1.0' in text
        assert "tidemill_adapter_page_in_seconds_count" in text


async def test_what_is_learnt_travels(tmp_path, monkeypatch):
    async with replica(tmp_path, monkeypatch) as served:
        await served.chat("sim:a")
        key = served.pager.shelf.by_name["a"].key
        outcome = AdapterOutcome(id="1", adapter=key, x=(1.0, 0.5, 0.0, 0.0), utility=1.0)
        _, _, counted = await served.post(wire.OUTCOMES_PATH, [encode(outcome)] * 2)
        assert counted == {"counted": 1}
        _, headers, body = await served.get(wire.LEARNED_PATH)
        learned = wire.LearnedState.from_json(json.loads(body))
        row = learned.estimates.keys.index(key)
        assert learned.estimates.theta[row][0] > 0
        assert learned.prices[row] == 0
        status, _, _ = await served.get(wire.LEARNED_PATH, **{"if-none-match": headers["etag"]})
        assert status == 304
        _, _, delta = await served.get(f"{wire.DELTA_PATH}?ack=0")
        report = wire.ContributionReport.from_json(json.loads(delta))
        assert [c.adapter for c in report.contributions] == [key]


async def test_a_catalogue_replaces_the_configured_one(tmp_path, monkeypatch):
    async with replica(tmp_path, monkeypatch) as served:
        await served.chat("sim:a")
        catalogue = encode(configured_catalogue(served.config))
        catalogue["version"] = 5
        catalogue["adapters"] = [card for card in catalogue["adapters"] if card["name"] != "a"]
        assert await served.put(wire.CATALOGUE_PATH, catalogue) == (200, {"version": 5})
        assert (await served.chat("sim:a"))[0] == 404
        assert await served.put(wire.CATALOGUE_PATH, {**catalogue, "version": 3}) == (200, {"version": 5})
        placement = encode(AdapterPlacement(version=2, adapters=("x",)))
        assert await served.put(wire.PLACEMENT_PATH, placement) == (200, {"version": 2})


async def test_a_wrong_body_is_a_400(tmp_path, monkeypatch):
    async with replica(tmp_path, monkeypatch) as served:
        status, body = await served.put(wire.CATALOGUE_PATH, {"version": "x"})
        assert status == 400
        assert "catalogue" in body["error"]["message"]


async def test_a_request_s_vector_and_openness_reach_the_controller(tmp_path, monkeypatch):
    async with replica(tmp_path, monkeypatch) as served:
        await served.chat("sim:a")
        x = messages.vector_to_header((1.0, 0.0, 0.0, 0.0))
        assert struct.unpack("<4f", base64.b64decode(x)) == (1.0, 0.0, 0.0, 0.0)
        headers = {
            messages.ADAPTER_CONTEXT: x,
            messages.ADAPTER_OPEN: "1",
            messages.ADAPTER_EXPLORED: "1",
        }
        assert (await served.chat("sim:a", **headers))[0] == 200
        _, _, text = await served.get("/metrics")
        assert "tidemill_adapter_explored_total 1.0" in text.decode()


@pytest.mark.parametrize("model", ["sim", "other"])
async def test_other_models_pass_untouched(tmp_path, monkeypatch, model):
    async with replica(tmp_path, monkeypatch) as served:
        status, headers, _ = await served.chat(model)
        assert status == (200 if model == "sim" else 404)
        assert messages.ADAPTER_SERVED not in headers
