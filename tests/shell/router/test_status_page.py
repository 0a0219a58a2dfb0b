"""The page for people: what it shows, to whom, and how many may watch."""

import asyncio
import base64
import hashlib
import re

import orjson
import pytest

from deployments.router.pages.status_page import EVENTS_PATH

SECRET = "the harbour master's secret"


async def event(cluster, **headers):
    """The first event, and the status."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with cluster.http.get(cluster.url + EVENTS_PATH, headers=named) as response:
        if response.status != 200:
            return response.status, orjson.loads(await response.read())
        assert response.headers["content-type"].startswith("text/event-stream")
        line = await response.content.readuntil(b"\n\n")
        assert line.startswith(b"data: ")
        return 200, orjson.loads(line[6:])


async def test_the_page_is_one_file_that_loads_nothing_from_outside(cluster):
    page = await cluster.get("/")
    assert page.status == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    html = page.content.decode()
    outside = [u for u in re.findall(r"(?:https?:)?//[^\s'\"]+", html) if "www.w3.org" not in u]
    assert not outside
    assert not re.findall(r"<(?:link|script|img|iframe)[^>]* (?:src|href)=\"(?!data:)", html)
    assert not re.findall(r"\son[a-z]+=|\sstyle=", html)


async def test_the_browser_is_told_to_run_nothing_but_the_page_itself(cluster):
    page = await cluster.get("/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    script = re.search(rb"<script>(.*?)</script>", page.content, re.DOTALL).group(1)
    assert base64.b64encode(hashlib.sha256(script).digest()).decode() in policy


async def test_an_event_says_how_the_fleet_and_its_requests_are(cluster, given):
    await cluster.chat("hello")
    await cluster.chat(given.long_prompt, temperature=0, stream=True)
    await cluster.chat(given.long_prompt, temperature=0, stream=True)
    await cluster.assert_idle()
    status, told = await event(cluster)
    assert status == 200
    assert told["models"] == {"sim": True}
    pools = {pool["name"]: pool for pool in told["pools"]}
    assert (pools["prefill"]["gpu_type"], pools["prefill"]["role"]) == ("H100", "prefill")
    assert [replica["id"] for replica in pools["decode"]["replicas"]] == ["decode-0", "decode-1"]
    assert {replica["phase"] for replica in pools["decode"]["replicas"]} == {"ready"}
    requests = told["requests"]
    assert requests["paths"] == {"combined": 1, "disaggregated": 1, "cached": 1}
    assert requests["cache"] == {"bypass": 1, "miss": 1, "exact": 1}
    assert requests["statuses"] == {"2xx": 3}
    assert requests["per_s"] == pytest.approx(3 / 60, rel=0.01)
    assert requests["output_tokens"] > 0
    assert 0 < requests["ttft_p50_s"] <= requests["ttft_p95_s"]
    assert [decision["path"] for decision in told["decisions"]] == ["cached", "disaggregated", "combined"]
    assert "prompt_short" in told["decisions"][2]["reasons"]


async def test_nothing_of_what_was_asked_nor_who_asked_is_on_it(cluster):
    answer = await cluster.chat(SECRET, headers={"authorization": "Bearer sk-do-not-tell"})
    await cluster.assert_idle()
    _, told = await event(cluster)
    tenant = (await cluster.decision(answer))["signals"]["tenant"]
    text = orjson.dumps(told)
    for word in (SECRET, "sk-do-not-tell", tenant, cluster.engines["decode-0"].report.url):
        assert word.encode() not in text


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "tidemill.example"},
        {"host": "127.0.0.1.example:8000"},
        {"host": "10.0.0.7:8000"},
        {"x_forwarded_for": "203.0.113.9"},
        {"x_forwarded_for": "127.0.0.1, 203.0.113.9"},
        {"forwarded": "for=203.0.113.9"},
        {"x_real_ip": "203.0.113.9"},
    ],
)
async def test_decisions_are_kept_from_who_comes_by_another_name_or_through_a_proxy(cluster, headers):
    await cluster.chat("hello")
    await cluster.assert_idle()
    status, told = await event(cluster, **headers)
    assert (status, told["decisions"]) == (200, None)
    assert told["requests"]["finished"] == 1
    given_key = await event(cluster, authorization="Bearer the-admin-key", **headers)
    assert len(given_key[1]["decisions"]) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"gateway": {"host": "0.0.0.0", "allow_without_keys": True}},
        {"status_page": {"decisions_without_key": False}},
        {"tenants": {"enabled": True, "tenants": {"a": {}}}},
    ],
)
async def test_decisions_ask_for_the_key_unless_the_gateway_is_for_this_machine_alone(start_cluster, changes):
    cluster = await start_cluster(changes)
    assert (await event(cluster))[1]["decisions"] is None
    assert (await event(cluster, authorization="Bearer the-admin-key"))[1]["decisions"] == []
    status, error = await event(cluster, authorization="Bearer wrong")
    assert (status, error["error"]["code"]) == (401, "invalid_admin_key")


async def test_one_page_too_many_is_told_so_and_a_closed_one_leaves_its_place(start_cluster):
    cluster = await start_cluster({"status_page": {"subscribers_max": 2, "period_s": 0.1}})
    first = await cluster.http.get(cluster.url + EVENTS_PATH)
    second = await cluster.http.get(cluster.url + EVENTS_PATH)
    await second.content.readuntil(b"\n\n")
    async with cluster.http.get(cluster.url + EVENTS_PATH) as third:
        assert (third.status, third.headers["retry-after"]) == (503, "10")
    first.close()
    for _ in range(100):
        status, _ = await event(cluster)
        if status == 200:
            break
        await asyncio.sleep(0.02)
    assert status == 200
    second.close()


async def test_events_go_on_and_end_so_that_no_page_keeps_a_router(start_cluster, monkeypatch):
    monkeypatch.setattr("deployments.router.pages.status_page._STREAM_S", 0.5)
    cluster = await start_cluster({"status_page": {"period_s": 0.1}})
    async with cluster.http.get(cluster.url + EVENTS_PATH) as response:
        content = await response.read()
    events = [orjson.loads(part[6:]) for part in content.split(b"\n\n") if part]
    assert 4 <= len(events) <= 6
    assert events[-1]["at_wall_s"] > events[0]["at_wall_s"]


async def test_the_number_of_decisions_is_bounded(start_cluster):
    cluster = await start_cluster({"status_page": {"decisions_max": 3}})
    for number in range(5):
        last = await cluster.chat(f"hello {number}")
    await cluster.assert_idle()
    shown = (await event(cluster))[1]["decisions"]
    assert len(shown) == 3
    assert shown[0]["id"] == last.headers["x-tidemill-decision-id"]


async def test_it_can_be_turned_off(start_cluster):
    cluster = await start_cluster({"status_page": {"enabled": False}})
    assert (await cluster.get("/")).status == 404
    assert (await cluster.get(EVENTS_PATH)).status == 404


async def test_it_is_only_read(cluster):
    for path in ("/", EVENTS_PATH):
        refused = await cluster.get(path, method="POST")
        assert (refused.status, refused.headers["allow"]) == (405, "GET")
