"""Health, readiness, metrics, the fleet and the decisions: what is open, what asks for the key."""

from dataclasses import replace

import pytest

from cluster.entities.pool import ReplicaPhase
from cluster.entities.workload import Surface
from deployments.router.core import RouterSettings


async def test_health_says_that_the_process_lives_even_without_replicas(cluster):
    cluster.remove(*list(cluster.engines))
    assert (await cluster.get("/health")).json == {"status": "ok"}


async def test_ready_says_whether_a_request_would_be_answered(cluster):
    ready = await cluster.get("/ready")
    assert (ready.status, ready.json) == (200, {"models": {"sim": True}})
    cluster.remove("decode-0")
    cluster.set_phase("decode-1", ReplicaPhase.DRAINING)
    unready = await cluster.get("/ready")
    assert (unready.status, unready.json) == (503, {"models": {"sim": False}})


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics", "/v1/models", "/v1/models/sim"])
async def test_reading_works_with_get_and_head_only(cluster, path):
    assert (await cluster.get(path)).status == 200
    head = await cluster.get(path, method="HEAD")
    assert (head.status, head.content) == (200, b"")
    wrong = await cluster.get(path, method="DELETE")
    assert (wrong.status, wrong.headers["allow"]) == (405, "GET")
    assert wrong.json["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize("surface", list(Surface))
async def test_asking_works_with_post_only(cluster, surface):
    for method in ("GET", "PUT", "DELETE"):
        wrong = await cluster.get(surface.value, method=method)
        assert (wrong.status, wrong.headers["allow"]) == (405, "POST")
        assert "takes POST" in wrong.json["error"]["message"]


@pytest.mark.parametrize(
    "path",
    ["/v1", "/v1/chat", "/v1/audio/speech", "/healthz", "/v1/models/x/y"],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_there_is_nothing_else(cluster, path, method):
    missing = await cluster.get(path, method=method)
    expected = 405 if method == "POST" and path.startswith("/v1/models/") else 404
    assert missing.status == expected
    assert set(missing.json["error"]) == {"message", "type", "param", "code"}
    assert cluster.engine_requests == 0


async def test_metrics_tell_what_happened(cluster, given):
    await cluster.chat()
    await cluster.chat(given.long_prompt, stream=True)
    await cluster.until(lambda: cluster.idle)
    requests = (
        'tidemill_requests_total{{cache="bypass",path="{}",status="200",surface="/v1/chat/completions"}}'
    )
    assert await cluster.metric(requests.format("combined")) == 1
    assert await cluster.metric(requests.format("disaggregated")) == 1
    assert await cluster.metric('tidemill_output_tokens_total{model="sim"}') == 16
    assert await cluster.metric('tidemill_prompt_tokens_total{model="sim"}') > 64
    assert await cluster.metric("tidemill_requests_in_flight") == 0
    assert await cluster.metric("tidemill_requests_queued") == 0
    assert await cluster.metric('tidemill_replicas{phase="ready",pool="decode"}') == 2
    assert await cluster.metric('tidemill_ttft_seconds_count{path="combined"}') == 1


async def test_metrics_have_no_label_that_a_client_chooses(cluster):
    await cluster.chat(model="auto")
    await cluster.chat(model="x'y\"z")
    await cluster.post("/v1/nonsense", {})
    text = (await cluster.get("/metrics")).content.decode()
    assert "z" not in "".join(line.split("{")[1] for line in text.splitlines() if "nonsense" in line)
    assert "auto" not in text
    assert "x'y" not in text
    assert "nonsense" not in text


ADMIN = [
    ("GET", "/admin/fleet"),
    ("GET", "/admin/decisions/d-1"),
    ("POST", "/admin/cache/purge"),
    ("GET", "/admin/whatever"),
]


@pytest.mark.parametrize(("method", "path"), ADMIN)
async def test_the_admins_paths_are_closed_without_the_key(cluster, method, path):
    for key in ("", "wrong", "the-admin-key2", "the-admin-kéy"):
        answer = await cluster.get(path, method=method, key=key)
        assert (answer.status, answer.json["error"]["code"]) == (401, "invalid_admin_key")
        assert "TIDEMILL_ADMIN_KEY" in answer.json["error"]["message"]


async def test_without_a_configured_key_they_are_closed_to_everybody(cluster, given):
    cluster.core.settings = RouterSettings(state_dir="", admin_key="")
    for key in ("", given.admin_key):
        assert (await cluster.get("/admin/fleet", key=key)).status == 401


async def test_the_fleet_with_the_key(cluster, given):
    fleet = (await cluster.get("/admin/fleet", key=given.admin_key)).json
    assert {replica["replica_id"] for replica in fleet["replicas"]} == {"prefill-0", "decode-0", "decode-1"}
    assert {replica["requests_in_flight"] for replica in fleet["replicas"]} == {0}
    assert [service["service"] for service in fleet["services"]] == ["semantic_cache"]
    assert fleet["version"] == cluster.core.picture.version
    assert fleet["router"]["id"] == "r"
    assert (fleet["router"]["requests_in_flight"], fleet["router"]["requests_queued"]) == (0, 0)


async def test_unknown_admin_paths_and_decisions_with_the_key(cluster, given):
    for path in ("/admin/", "/admin/whatever", "/admin/decisions/"):
        assert (await cluster.get(path, key=given.admin_key)).status == 404
    missing = await cluster.get("/admin/decisions/d-nothing", key=given.admin_key)
    assert missing.json["error"]["code"] == "decision_not_found"
    strange = await cluster.get("/admin/decisions/%22%0A%FF..%2F..%2Fetc", key=given.admin_key)
    assert strange.status == 404


async def test_a_purge_without_a_cache_says_so(start_cluster, given):
    cluster = await start_cluster(cache=False)
    answer = await cluster.get("/admin/cache/purge", method="POST", key=given.admin_key)
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) >= 1


async def test_a_purge_of_a_cache_that_is_gone_says_so(cluster, given):
    cluster.services = (replace(cluster.services[0], url=f"http://{given.host}:1"),)
    cluster.tell()
    answer = await cluster.get("/admin/cache/purge", method="POST", key=given.admin_key)
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) >= 1
