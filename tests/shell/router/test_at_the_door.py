"""What strangers and browsers get at the door: metrics, pages of other sites, slashes, compressed bodies."""

import gzip

import orjson
import pytest

PAGE = "https://chat.example.com"
CORS = {"gateway": {"cors": {"origins": [PAGE]}}}
TENANTS = {"tenants": {"enabled": True, "tenants": {"acme": {}}}}


async def ask(cluster, method, path, **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with cluster.http.request(
        method, cluster.url + path, headers=named, allow_redirects=False
    ) as response:
        return response.status, response.headers, await response.read()


async def preflight(cluster, path="/v1/chat/completions", origin=PAGE, wants="authorization,content-type"):
    return await ask(
        cluster,
        "OPTIONS",
        path,
        origin=origin,
        access_control_request_method="POST",
        access_control_request_headers=wants,
    )


async def test_with_tenants_metrics_are_the_operators(start_cluster, given):
    cluster = await start_cluster(TENANTS)
    for key in ("", "wrong"):
        answer = await cluster.get("/metrics", key=key)
        assert (answer.status, answer.json["error"]["code"]) == (401, "invalid_admin_key")
    assert b"tidemill_" in (await cluster.get("/metrics", key=given.admin_key)).content


async def test_a_page_that_is_allowed_is_told_so_before_it_has_a_key(start_cluster):
    cluster = await start_cluster({**CORS, **TENANTS})
    status, headers, body = await preflight(cluster, wants="Authorization, x-stainless-os, x-evil")
    assert (status, body) == (204, b"")
    assert headers["access-control-allow-origin"] == PAGE
    assert headers["access-control-allow-methods"] == "GET, HEAD, POST"
    allowed = headers["access-control-allow-headers"].split(", ")
    assert {"authorization", "content-type", "x-stainless-os"} <= set(allowed)
    assert "x-evil" not in allowed
    assert headers["vary"] == "origin"
    assert "access-control-allow-credentials" not in headers
    status, headers, _ = await ask(cluster, "GET", "/v1/models", origin=PAGE)
    assert status == 401
    assert headers["access-control-allow-origin"] == PAGE, "the page may read why"


async def test_answers_tell_the_browser_what_the_page_may_read(start_cluster):
    cluster = await start_cluster(CORS)
    answer = await cluster.chat(stream=True, headers={"origin": PAGE})
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == PAGE
    readable = answer.headers["access-control-expose-headers"].split(", ")
    assert {"x-tidemill-decision-id", "x-request-id"} <= set(readable)
    assert "access-control-allow-origin" not in (await cluster.chat()).headers


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", PAGE + ".evil.example", "http://chat.example.com"]
)
async def test_other_pages_are_told_nothing(start_cluster, origin):
    cluster = await start_cluster(CORS)
    status, headers, body = await preflight(cluster, origin=origin)
    assert (status, orjson.loads(body)["error"]["code"]) == (403, "origin_not_allowed")
    assert "access-control-allow-origin" not in headers
    answer = await cluster.chat(headers={"origin": origin})
    assert "access-control-allow-origin" not in answer.headers
    assert answer.headers["vary"] == "origin"


async def test_all_pages_may_be_allowed_but_never_with_the_browsers_own_credentials(start_cluster):
    cluster = await start_cluster({"gateway": {"cors": {"origins": ["*"]}}})
    status, headers, _ = await preflight(cluster, origin="https://any.example")
    assert (status, headers["access-control-allow-origin"]) == (204, "*")
    assert "access-control-allow-credentials" not in headers


@pytest.mark.parametrize("path", ["/admin/fleet", "/metrics", "/status/events", "/"])
async def test_what_is_the_operators_is_closed_to_pages(start_cluster, path):
    cluster = await start_cluster(CORS)
    status, headers, _ = await preflight(cluster, path)
    assert status >= 400
    assert "access-control-allow-origin" not in headers


async def test_by_default_no_page_is_answered(cluster):
    assert (await preflight(cluster))[0] == 405
    assert "access-control-allow-origin" not in (await cluster.chat(headers={"origin": PAGE})).headers


@pytest.mark.parametrize("path", ["/v1/models", "/v1/chat/completions", "/v1/messages", "/v1/feedback"])
async def test_a_slash_too_many_is_sent_on_as_by_vllm(cluster, path):
    status, headers, _ = await ask(cluster, "GET" if path == "/v1/models" else "POST", path + "/")
    assert (status, headers["location"]) == (307, path)


async def test_clients_follow_to_the_address_without_the_slash(cluster):
    body = {"model": "sim", "messages": [{"role": "user", "content": "hello"}]}
    answer = await cluster.post("/v1/chat/completions/", body)
    assert answer.status == 200
    assert answer.json["object"] == "chat.completion"


async def test_nothing_else_is_sent_on(cluster):
    for path in ("/metrics/", "/admin/fleet/", "//evil.example/", "/v1/models/sim/"):
        assert (await ask(cluster, "GET", path))[0] in {401, 404}


@pytest.mark.parametrize("coding", ["gzip", "br", "GZIP"])
async def test_a_compressed_body_is_refused_in_words(cluster, coding):
    body = gzip.compress(b'{"model": "sim", "messages": [{"role": "user", "content": "hello"}]}')
    answer = await cluster.post("/v1/chat/completions", body, content_encoding=coding)
    assert (answer.status, answer.json["error"]["code"]) == (415, "unsupported_content_encoding")
    assert coding in answer.json["error"]["message"]
    assert answer.headers["accept-encoding"] == "identity"
    assert (await cluster.chat(headers={"content-encoding": "identity"})).status == 200
    assert cluster.engine_requests == 1


async def test_every_answer_has_a_request_id_the_clients_own_if_it_gave_one(start_cluster):
    cluster = await start_cluster()
    ids = [(await cluster.chat()).headers["x-request-id"] for _ in range(2)]
    assert len(set(ids)) == 2
    assert all(ids)
    assert (await cluster.chat(headers={"x-request-id": "mine-1"})).headers["x-request-id"] == "mine-1"
    status, headers, _ = await ask(cluster, "GET", "/nowhere", x_request_id="mine-2")
    assert (status, headers["x-request-id"]) == (404, "mine-2")
