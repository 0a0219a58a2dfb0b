"""Adapters added, changed and removed while a cluster runs: the coordinator, its death, its files."""

import asyncio

import numpy as np
import pytest

from deployments.adapter_messages import ContributionReport
from deployments.router.adapters import outcomes as judgements
from operators.pager.store import CoordinatorStore
from tests.adapter_files import write_adapter

ENGINE = {"kind": "simulated", "step_base_s": 0.001, "output_tokens": 4}
KEY = "the-admin-key"
DIMENSION = 8


def settings(folder, **limits):
    return {
        "models": {"sim": {"source": "simulated", "aliases": ["base"]}},
        "pools": {
            "decode": {"adapters": {"slots": 3, "stall_s_per_s": 1.0, **limits}, "engine": ENGINE},
        },
        "adapters": {
            "catalogue": {
                "law": {"base_model": "sim", "source": str(write_adapter(folder / "law", 1))},
                "code": {"base_model": "sim", "source": str(write_adapter(folder / "code", 2))},
            },
            "paging": {"dimension": DIMENSION, "policy": "gdsf", "explore_share": 0.5},
            "fleet": {"learned_period_s": 0.02, "adapters_max": 4},
        },
    }


@pytest.fixture
async def cluster(start_cluster, tmp_path, monkeypatch):
    """Two decode replicas, two configured adapters, and a coordinator that has made one round."""
    monkeypatch.setattr(judgements, "_GATHER_S", 0.005)
    started = await start_cluster(settings(tmp_path))
    await started.start_coordinator()
    return started


async def admin(cluster, method, path, body=None, *, key=KEY):
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    async with cluster.http.request(method, cluster.url + path, json=body, headers=headers) as response:
        content = await response.read()
        if response.content_type == "application/json":
            return response.status, await response.json()
        return response.status, content.decode()


async def ask(cluster, model, text="hello", **fields):
    return await cluster.chat(text, model=model, max_tokens=3, **fields)


def pagers(cluster):
    return [engine.paged.pager for engine in cluster.engines.values() if engine.paged]


async def test_an_added_adapter_answers_at_once_everywhere(cluster, tmp_path):
    body = {"name": "sql", "source": str(write_adapter(tmp_path / "sql", 3)), "tags": {"team": "data"}}
    status, told = await admin(cluster, "POST", "/admin/adapters", body)
    assert status == 200, told
    assert told["adapter"]["base_model"] == "sim"
    assert len(told["adapter"]["sha256"]) == 64
    assert told["adapter"]["rank"] == 8
    assert told["nodes"] == {"reached": 2, "known": 2}
    answer = await ask(cluster, "sim:sql")
    assert (answer.status, answer.headers["x-tidemill-adapter"]) == (200, "sql")
    status, one = await admin(cluster, "GET", "/admin/adapters/sql")
    assert (status, one["tags"], one["id"]) == (200, {"team": "data"}, "sim:sql")
    status, listed = await admin(cluster, "GET", "/admin/adapters")
    assert [card["name"] for card in listed["data"]] == ["code", "law", "sql"]
    assert {node["error"] for node in listed["coordinator"]["nodes"]} == {""}


async def test_a_removed_adapter_is_unknown_at_once(cluster):
    assert (await ask(cluster, "sim:law")).status == 200
    status, told = await admin(cluster, "DELETE", "/admin/adapters/sim:law")
    assert (status, told["deleted"]) == (200, True)
    gone = await ask(cluster, "sim:law")
    assert (gone.status, gone.json["error"]["code"]) == (404, "model_not_found")
    assert (await admin(cluster, "DELETE", "/admin/adapters/law"))[0] == 404
    for pager in pagers(cluster):
        await cluster.until(lambda pager=pager: "law" not in pager.shelf.by_name)


async def test_new_weights_under_an_old_name_get_no_old_answers_and_inherit(cluster, tmp_path):
    await ask(cluster, "sim:law")
    before = await ask(cluster, "sim:law", "What is due?", temperature=0)
    assert before.headers["x-tidemill-cache"] == "miss"
    write_adapter(tmp_path / "law", 77)
    status, told = await admin(cluster, "POST", "/admin/adapters/law", {"source": str(tmp_path / "law")})
    assert status == 200, told
    assert told["adapter"]["replaces"] not in {"", told["adapter"]["sha256"]}
    sha256 = told["adapter"]["sha256"]
    for _ in range(100):
        after = await ask(cluster, "sim:law", "What is due?", temperature=0)
        assert after.headers["x-tidemill-cache"] != "exact" or answered_by(cluster, "law") == {sha256}
        if after.headers["x-tidemill-cache"] == "exact":
            break
        await asyncio.sleep(0.01)
    assert answered_by(cluster, "law") == {sha256}


def answered_by(cluster, name):
    return {pager.shelf.by_name[name].key for pager in pagers(cluster) if pager.shelf.by_name[name].key}


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"source": "x"}, 400, "invalid_request"),
        ({"name": "", "source": "x"}, 400, "invalid_request"),
        ({"name": "a b", "source": "x"}, 400, "invalid_name"),
        ({"name": "auto", "source": "x"}, 400, "invalid_name"),
        ({"name": "base", "source": "x"}, 400, "invalid_name"),
        ({"name": "new"}, 400, "invalid_adapter"),
        ({"name": "new", "source": "x", "sauce": 1}, 400, "invalid_adapter"),
        ({"name": "new", "source": "x", "prior_utility": 2}, 400, "invalid_adapter"),
        ({"name": "new", "source": "/nowhere"}, 422, "adapter_source_failed"),
        ({"name": "new", "base_model": "other", "source": "x"}, 400, "base_model_without_adapters"),
        ({"name": "law", "source": "/nowhere"}, 409, "adapter_exists"),
    ],
)
async def test_what_is_wrong_is_refused_in_words_and_changes_nothing(cluster, body, status, code):
    version = cluster.coordinator.catalogue.version
    found, told = await admin(cluster, "POST", "/admin/adapters", body)
    assert (found, told["error"]["code"]) == (status, code), told
    assert cluster.coordinator.catalogue.version == version


async def test_ranks_pins_hashes_and_room_are_checked(cluster, tmp_path):
    async def add(name, *, rank=8, **fields):
        source = str(write_adapter(tmp_path / name, sum(name.encode()), rank=rank))
        return await admin(cluster, "POST", "/admin/adapters", {"name": name, "source": source, **fields})

    status, told = await add("wide", rank=64)
    assert (status, told["error"]["code"]) == (409, "adapter_rank_too_large")
    status, told = await add("other", sha256="0" * 64)
    assert (status, told["error"]["code"]) == (422, "adapter_files_unusable")
    assert (await admin(cluster, "POST", "/admin/adapters/law", {"pinned": True}))[0] == 200
    assert (await add("p1", pinned=True))[0] == 200
    status, told = await add("p2", pinned=True)
    assert (status, told["error"]["code"]) == (409, "too_many_pins")
    assert (await add("p2"))[0] == 200
    status, told = await add("p3")
    assert (status, told["error"]["code"]) == (409, "catalogue_full")


async def test_only_the_admin_key_opens_these_pages(cluster):
    for method, path in (
        ("GET", "/admin/adapters"),
        ("DELETE", "/admin/adapters/law"),
        ("POST", "/v1/load_lora_adapter"),
        ("POST", "/v1/unload_lora_adapter"),
    ):
        status, told = await admin(cluster, method, path, {} if method == "POST" else None, key="wrong")
        assert (status, told["error"]["code"]) == (401, "invalid_admin_key")


async def test_vllm_s_pages_do_what_they_do_there(cluster, tmp_path):
    path = str(write_adapter(tmp_path / "sql", 3))
    body = {"lora_name": "sql", "lora_path": path}
    status, told = await admin(cluster, "POST", "/v1/load_lora_adapter", body)
    assert (status, told) == (200, "Success: LoRA adapter 'sql' added successfully.")
    assert (await ask(cluster, "sql")).headers["x-tidemill-adapter"] == "sql"
    status, told = await admin(cluster, "POST", "/v1/load_lora_adapter", body)
    assert status == 400
    assert "already been loaded" in told["error"]["message"]
    status, _ = await admin(cluster, "POST", "/v1/load_lora_adapter", {**body, "load_inplace": True})
    assert status == 200
    assert (await admin(cluster, "POST", "/v1/load_lora_adapter", {"lora_name": "sql"}))[0] == 400
    status, told = await admin(cluster, "POST", "/v1/unload_lora_adapter", {"lora_name": "sql"})
    assert (status, told) == (200, "Success: LoRA adapter 'sql' removed successfully.")
    assert (await ask(cluster, "sql")).status == 404
    assert (await admin(cluster, "POST", "/v1/unload_lora_adapter", {"lora_name": "sql"}))[0] == 404
    assert (await admin(cluster, "GET", "/v1/load_lora_adapter"))[0] == 404


async def test_while_the_coordinator_is_away_everything_but_changes_goes_on(cluster, tmp_path):
    body = {"name": "sql", "source": str(write_adapter(tmp_path / "sql", 3))}
    assert (await admin(cluster, "POST", "/admin/adapters", body))[0] == 200
    cluster.coordinator = None
    status, told = await admin(cluster, "DELETE", "/admin/adapters/sql")
    assert (status, told["error"]["code"]) == (503, "overloaded")
    assert (await ask(cluster, "sim:sql")).status == 200
    answer = await ask(cluster, "sim:auto")
    assert answer.status == 200
    decision_id = answer.headers["x-tidemill-decision-id"]
    judged = await cluster.post("/v1/feedback", {"decision_id": decision_id, "reward": 1})
    assert judged.json["status"] == "counted"
    status, listed = await admin(cluster, "GET", "/admin/adapters")
    assert [card["name"] for card in listed["data"]] == ["code", "law", "sql"]


async def test_a_coordinator_that_was_killed_loses_nothing_it_acknowledged(cluster, tmp_path):
    body = {"name": "sql", "source": str(write_adapter(tmp_path / "sql", 3)), "prior_utility": 0.8}
    assert (await admin(cluster, "POST", "/admin/adapters", body))[0] == 200
    assert (await admin(cluster, "DELETE", "/admin/adapters/law"))[0] == 200
    before = cluster.coordinator.catalogue
    cluster.coordinator = None  # as kill -9 leaves it: nothing is written any more
    await cluster.start_coordinator()
    after = cluster.coordinator.catalogue
    assert [(card.name, card.prior_utility) for card in after.adapters] == [("code", 0.5), ("sql", 0.8)]
    assert after.version >= before.version
    assert (await ask(cluster, "sim:sql")).status == 200
    assert (await ask(cluster, "sim:law")).status == 404


async def test_a_torn_file_gives_the_version_before(cluster, tmp_path):
    body = {"name": "sql", "source": str(write_adapter(tmp_path / "sql", 3))}
    assert (await admin(cluster, "POST", "/admin/adapters", body))[0] == 200
    assert (await admin(cluster, "DELETE", "/admin/adapters/sql"))[0] == 200
    path = tmp_path / "adapter-coordinator" / "catalogue.json"
    path.write_bytes(path.read_bytes()[:-20])
    cluster.coordinator = None
    await cluster.start_coordinator()
    assert [card.name for card in cluster.coordinator.catalogue.adapters] == ["code", "law", "sql"]


async def test_nodes_learn_from_each_other_once(cluster):
    for number in range(12):
        answer = await ask(cluster, "sim:auto", f"question {number}")
        decision_id = answer.headers["x-tidemill-decision-id"]
        await cluster.post("/v1/feedback", {"decision_id": decision_id, "reward": 0.9})
    own = [pager.core.statistics.version for pager in pagers(cluster)]
    assert sum(own) == 12
    for _ in range(3):
        await cluster.coordinator.round()
    if min(own):
        assert [pager.core.statistics.count.sum() for pager in pagers(cluster)] == [12, 12]
    counts = [dict(zip(p.core.keys, p.core.statistics.count, strict=True)) for p in pagers(cluster)]
    assert counts[0] == counts[1]
    theta = [p.core.estimates().theta[np.argsort(p.core.keys)] for p in pagers(cluster)]
    np.testing.assert_allclose(theta[0], theta[1], atol=1e-12)


async def test_a_node_that_lost_what_it_learnt_gets_it_back(cluster):
    node = pagers(cluster)[0]
    await cluster.until(lambda: all(len(pager.core.keys) == 2 for pager in pagers(cluster)))
    key = node.core.keys[0]
    for _ in range(5):
        node.core.observe(key, np.ones(DIMENSION), 0.9)
    await cluster.coordinator.round()
    await cluster.coordinator.close()
    other = pagers(cluster)[1]
    assert other.core.statistics.count.sum() == 5
    store = CoordinatorStore(
        cluster.coordinator._store._catalogue.parent,
        encoder=cluster.config.semantic_cache.encoder.model,
        dimension=DIMENSION,
    )
    learned = store.load_learned()
    assert [found.count for found in learned.contributions] == [5]
    assert learned.acknowledged[node.core.statistics.source] == 5
    # Another coordinator with these files tells a node that knows nothing.
    cluster.coordinator = None
    await cluster.start_coordinator()
    assert isinstance(cluster.coordinator._gathering.news_for("new", "new"), tuple)
    assert sum(c.count for c in cluster.coordinator._gathering.news_for("new", "new")) == 5


async def test_what_a_node_tells_is_acknowledged_only_when_it_is_on_the_disk(cluster):
    gathering = cluster.coordinator._gathering
    gathering.take(ContributionReport(source="n", version=7))
    assert gathering.acknowledged("n") == 0
    gathering.kept(gathering.to_keep())
    assert gathering.acknowledged("n") == 7


async def test_placement_follows_load_and_reaches_the_nodes(cluster):
    for number in range(6):
        await ask(cluster, "sim:law", f"{number}")
    await cluster.coordinator.round()
    await asyncio.sleep(0.02)
    for number in range(6):
        await ask(cluster, "sim:law", f"again {number}")
    await cluster.coordinator.round()
    law = cluster.core.adapters.names.card("law").sha256
    assert law
    for pager in pagers(cluster):
        assert pager.placement.adapters[0] == law
    assert await cluster.metric('tidemill_adapters_placed_entries{model="sim"}') >= 2
    assert await cluster.metric('tidemill_adapters_visited_replicas{state="reached"}') == 2
