"""With tenants, an answer is judged by the tenant that got it; to others its decision is unknown."""

import random
import time

import pytest

from deployments.router.models import learning
from deployments.tenants.keys import FileKeys, new_key
from tests.adapter_files import write_adapter

ENGINE = {"kind": "simulated", "step_base_s": 0.001, "output_tokens": 4}
TENANTS = {"tenants": {"enabled": True, "tenants": {"acme": {}, "rival": {}}}}
UNKNOWN = "d-000000000000-0000000000"


@pytest.fixture
def keys(tmp_path):
    """A key of each tenant."""
    store, texts = FileKeys(tmp_path / "tenants" / "keys.json"), {}
    for tenant in ("acme", "rival"):
        record, texts[tenant] = new_key(tenant, name="test", now_s=time.time(), expires_at_s=None)
        store.change(lambda known, record=record: {**known, record.key_id: record})
    return texts


async def judge(cluster, decision_id, key, reward=1):
    body = {"decision_id": decision_id, "reward": reward}
    answer = await cluster.post("/v1/feedback", body, authorization=f"Bearer {key}")
    return answer.status, answer.json


async def assert_only_its_tenant_judges(cluster, model, keys, admin_key):
    asked = await cluster.chat("hello", model=model, headers={"authorization": f"Bearer {keys['acme']}"})
    assert asked.status == 200, asked.content
    decision_id = asked.headers["x-tidemill-decision-id"]
    unknown = await judge(cluster, UNKNOWN, keys["rival"])
    status, refused = await judge(cluster, decision_id, keys["rival"])
    assert (status, refused["error"]["code"]) == (404, "decision_not_found")
    refused["error"]["message"] = refused["error"]["message"].replace(decision_id, UNKNOWN)
    assert (status, refused) == unknown, "nothing tells that there is such a decision"
    status, told = await judge(cluster, decision_id, keys["acme"])
    assert (status, told["status"]) == (200, "counted")
    assert (await judge(cluster, decision_id, keys["rival"], reward=0))[0] == 404, "not even 409"
    status, told = await judge(cluster, decision_id, admin_key)
    assert (status, told["status"]) == (200, "repeated"), "the operator may judge any"


async def test_the_answer_of_a_chosen_model(start_cluster, keys, given, monkeypatch):
    monkeypatch.setattr(learning, "_ASK_AGAIN_S", 0.02)
    two = {
        "models": {"sim": {"source": "simulated", "aliases": []}, "vast": {"source": "simulated"}},
        "pools": {"vast": {"model": "vast", "engine": ENGINE}},
        "routing": {"models": {"policy": "linucb"}},
    }
    cluster = await start_cluster({**two, **TENANTS})
    cluster.core.models._draw = random.Random(3).random
    await assert_only_its_tenant_judges(cluster, "auto", keys, given.admin_key)
    asked = await cluster.chat("again", model="auto", headers={"authorization": f"Bearer {keys['acme']}"})
    decision_id = asked.headers["x-tidemill-decision-id"]
    await cluster.core.learning._send()
    after = await start_cluster({**two, **TENANTS}, router_id="after")
    assert (await judge(after, decision_id, keys["rival"]))[0] == 404
    assert (await judge(after, decision_id, keys["acme"]))[0] == 200


async def test_the_answer_of_a_chosen_adapter(start_cluster, keys, given, tmp_path):
    catalogue = {"law": {"base_model": "sim", "source": str(write_adapter(tmp_path / "law", 0))}}
    settings = {
        "models": {"sim": {"source": "simulated", "aliases": ["base"]}},
        "pools": {"decode": {"adapters": {"slots": 1, "stall_s_per_s": 1.0}, "engine": ENGINE}},
        "adapters": {
            "catalogue": catalogue,
            "paging": {"dimension": 16, "policy": "gdsf", "router": "amortised"},
            "fleet": {"learned_period_s": 0.02},
        },
    }
    cluster = await start_cluster({**settings, **TENANTS}, draw=0.0)
    await assert_only_its_tenant_judges(cluster, "sim:auto", keys, given.admin_key)
    cluster.core.adapters.outcomes._answers.clear()
    asked = await cluster.chat("x", model="sim:auto", headers={"authorization": f"Bearer {keys['acme']}"})
    await cluster.decision(asked)
    cluster.core.adapters.outcomes._answers.clear()
    decision_id = asked.headers["x-tidemill-decision-id"]
    assert (await judge(cluster, decision_id, keys["rival"]))[0] == 404, "found in the log, and not told"
    assert (await judge(cluster, decision_id, keys["acme"]))[0] == 200


async def test_without_tenants_everybody_judges(start_cluster):
    two = {
        "models": {"sim": {"source": "simulated", "aliases": []}, "vast": {"source": "simulated"}},
        "pools": {"vast": {"model": "vast", "engine": ENGINE}},
        "routing": {"models": {"policy": "linucb"}},
    }
    cluster = await start_cluster(two)
    asked = await cluster.chat("hello", model="auto", headers={"authorization": "Bearer one"})
    assert (await judge(cluster, asked.headers["x-tidemill-decision-id"], "two"))[0] == 200
