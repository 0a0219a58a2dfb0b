"""Tenants over HTTP: keys, models, limits and budgets, exact under concurrency and across routers."""

import asyncio
import time
from dataclasses import replace

import orjson
import pytest

from cluster.entities.energy import EnergySource
from deployments.router.fleet.energy import Payer
from deployments.tenants.keys import FileKeys, new_key

PRICES = {"price_usd_per_million_input_tokens": 1000.0, "price_usd_per_million_output_tokens": 2000.0}


@pytest.fixture
def make_key(tmp_path):
    """Makes keys in the file that the routers read."""
    store = FileKeys(tmp_path / "tenants" / "keys.json")

    def make(tenant, **fields):
        record, text = new_key(tenant, name="test", now_s=time.time(), expires_at_s=None)
        record = replace(record, **fields)
        store.change(lambda keys: {**keys, record.key_id: record})
        return text

    return make


def with_tenants(*, store=None, more=None, **tenants):
    section = {"enabled": True, "tenants": tenants}
    # A busy machine is not to look like a ledger that is away.
    section["store"] = {"timeout_s": 30.0, **(store or {})}
    return {"tenants": section, "semantic_cache": {"enabled": False}, **(more or {})}


def bearer(key):
    return {"authorization": f"Bearer {key}"}


async def many(cluster, key, number, **fields):
    return await asyncio.gather(
        *(cluster.chat(f"hello {i}", headers=bearer(key), **fields) for i in range(number))
    )


async def told(*clusters):
    """Wait until the ledger knows what these routers have used, and that they need no more places."""
    for cluster in clusters:
        await cluster.assert_idle()
        gate = cluster.core.tenants.gate
        await gate._tell()
        await gate._in_thread(lambda: None)  # what was on its way already
        await cluster.until(lambda gate=gate: gate.leases("acme").lack(0.0, 0.0, gate._now_s()) is None)


def statuses(answers):
    return sorted(answer.status for answer in answers)


async def test_without_a_valid_key_nobody_is_answered(start_cluster, make_key, given):
    key = make_key("acme")
    revoked, expired = (
        make_key("acme", **{end: time.time() - 1}) for end in ("revoked_at_s", "expires_at_s")
    )
    strayed = make_key("nobody")
    cluster = await start_cluster(with_tenants(acme={}))
    wrong = key[:-1] + ("A" if key[-1] != "A" else "B")
    for bad in ("", "x", wrong, revoked, expired, strayed, "tm-é-ü"):
        answer = await cluster.chat(headers=bearer(bad.encode().decode("latin-1")))
        assert (answer.status, answer.json["error"]["code"]) == (401, "invalid_api_key"), bad
        assert answer.json["error"]["type"] == "invalid_request_error"
        assert answer.headers["www-authenticate"] == "Bearer"
    assert cluster.engine_requests == 0
    message = {"model": "sim", "max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]}
    assert (await cluster.post("/v1/messages", message)).json["error"]["type"] == "authentication_error"
    for path in ("/v1/models", "/v1/models/sim"):
        assert (await cluster.get(path)).status == 401
        assert (await cluster.get(path, key=key)).status == 200
    assert (await cluster.post("/v1/feedback", {"decision_id": "d", "reward": 1})).status == 401
    assert (await cluster.post("/v1/messages", message, x_api_key=key)).status == 200
    assert (await cluster.chat(headers=bearer(key))).status == 200
    assert (await cluster.chat(headers=bearer(given.admin_key))).status == 200
    assert (await cluster.get("/health")).status == 200
    assert await cluster.metric("tidemill_keys_refused_total") >= 7
    await cluster.assert_idle()


async def test_a_key_opens_nothing_of_the_operators(start_cluster, make_key):
    key = make_key("acme")
    cluster = await start_cluster(with_tenants(acme={}))
    for path in ("/admin/fleet", "/admin/usage", "/admin/decisions/d-1"):
        assert (await cluster.get(path, key=key)).status == 401


async def test_new_and_revoked_keys_are_noticed(start_cluster, make_key, tmp_path, caplog):
    cluster = await start_cluster(with_tenants(acme={}, store={"keys_reload_s": 0.02}))
    key = make_key("acme")

    async def until_it_is(status):
        async with asyncio.timeout(10):
            while (await cluster.chat(headers=bearer(key))).status != status:
                await asyncio.sleep(0.02)

    await until_it_is(200)
    store = FileKeys(tmp_path / "tenants" / "keys.json")
    store.change(lambda keys: {i: replace(k, revoked_at_s=time.time()) for i, k in keys.items()})
    await until_it_is(401)
    (tmp_path / "tenants" / "keys.json").write_bytes(b"{ torn")
    await cluster.until(lambda: "not read" in caplog.text)
    assert (await cluster.chat(headers=bearer(key))).status == 401


async def test_a_tenant_asks_only_its_models(start_cluster, make_key):
    more = {"models": {"other": {"source": "simulated"}}, "pools": {}}
    engine = {"kind": "simulated", "step_base_s": 0.001, "output_tokens": 4}
    more["pools"]["other-pool"] = {"model": "other", "role": "combined", "gpu_type": "H100", "engine": engine}
    small, free = make_key("small"), make_key("free")
    cluster = await start_cluster(with_tenants(small={"models": ["auto"]}, free={}, more=more))
    answer = await cluster.chat(headers=bearer(small), model="other")
    assert (answer.status, answer.json["error"]["code"]) == (403, "model_not_allowed")
    assert "auto" in answer.json["error"]["message"]
    assert (await cluster.chat(headers=bearer(small), model="sim")).status == 200
    assert (await cluster.chat(headers=bearer(free), model="other")).status == 200
    listed = [entry["id"] for entry in (await cluster.get("/v1/models", key=small)).json["data"]]
    assert "other" not in listed
    assert {"sim", "auto"} <= set(listed)
    body = {"model": "all-MiniLM-L6-v2", "input": "x"}
    assert (await cluster.post("/v1/embeddings", body, **bearer(small))).status == 403


async def test_requests_per_minute_are_exact_on_two_routers(start_cluster, make_key):
    key = make_key("acme")
    changes = with_tenants(acme={"requests_per_minute": 50}, more={"gateway": {"router_replicas": 2}})
    first, second = [await start_cluster(changes, router_id=name) for name in ("one", "two")]
    answers = await asyncio.gather(many(first, key, 80), many(second, key, 80))
    assert statuses([*answers[0], *answers[1]]).count(200) == 50
    refused = next(answer for answer in answers[0] if answer.status == 429)
    assert refused.json["error"]["code"] == "rate_limit_exceeded"
    assert refused.json["error"]["type"] == "rate_limit_error"
    assert 1 <= int(refused.headers["retry-after"]) <= 65
    assert refused.headers["x-ratelimit-limit-requests"] == "50"
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert refused.headers["x-ratelimit-reset-requests"] == "65s"
    record = await first.decision(refused)
    assert record["reasons"][-1] == "rate_limited"
    assert record["status"] == 429
    assert await first.metric('tidemill_tenant_requests_total{outcome="rate_limited",tenant="acme"}') > 0


async def test_a_few_requests_one_after_the_other_are_exact_on_two_routers(start_cluster, make_key):
    key = make_key("acme")
    changes = with_tenants(acme={"requests_per_minute": 5}, more={"gateway": {"router_replicas": 2}})
    routers = [await start_cluster(changes, router_id=name) for name in ("one", "two")]
    answers = [await routers[i % 2].chat(headers=bearer(key)) for i in range(9)]
    assert [answer.status for answer in answers] == [200] * 5 + [429] * 4


async def test_tokens_per_minute_reserve_and_give_back(start_cluster, make_key, given):
    key = make_key("acme")
    usage = {"prompt_tokens": 10, "completion_tokens": 8, "total_tokens": 18}
    brief = orjson.dumps(
        {"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}], "usage": usage}
    )
    stand_in = given.engine_that(brief, content_type="application/json")
    cluster = await start_cluster(
        with_tenants(acme={"tokens_per_minute": 400}),
        stand_ins=dict.fromkeys(("decode-0", "decode-1", "prefill-0"), stand_in),
    )
    large = await cluster.chat(headers=bearer(key), max_tokens=1000)
    assert (large.status, large.json["error"]["code"]) == (429, "rate_limit_exceeded")
    assert "larger than the limit" in large.json["error"]["message"]
    # Each may answer 100 tokens and answers 8: what was reserved comes back.
    for _ in range(8):
        answer = await cluster.chat(headers=bearer(key), max_tokens=100)
        assert answer.status == 200
    await cluster.assert_idle()
    assert int(
        (await cluster.chat(headers=bearer(key), max_tokens=1)).headers["x-ratelimit-remaining-tokens"]
    ) in range(400 - 8 * 18 - 30, 400 - 8 * 18)
    # How long is open: what is left will do, for as many as there is something left for.
    answers = await many(cluster, key, 30)
    assert 1 <= statuses(answers).count(200) <= 16
    assert {answer.status for answer in answers} == {200, 429}


async def test_several_answers_are_reserved_as_often_as_they_are_asked_for(start_cluster, make_key):
    key = make_key("acme")
    cluster = await start_cluster(with_tenants(acme={"budget": {"day": {"tokens": 400}}}))
    assert (await cluster.chat(headers=bearer(key), n=8, max_tokens=60)).status == 402
    prompts = {"model": "sim", "prompt": ["a", "b", "c", "d"], "n": 2, "max_tokens": 60}
    assert (await cluster.post("/v1/completions", prompts, **bearer(key))).status == 402
    # A bound in the words of another surface is none: the engine does not look at it.
    disguised = {"model": "sim", "prompt": "a", "max_completion_tokens": 1, "max_tokens": 600}
    assert (await cluster.post("/v1/completions", disguised, **bearer(key))).status == 402
    answers = await many(cluster, key, 6, n=4, max_tokens=20)
    used = sum(a.json["usage"]["total_tokens"] for a in answers if a.status == 200)
    assert 300 <= used <= 400
    assert set(statuses(answers)) == {200, 402}


async def test_concurrency_is_exact_on_two_routers(start_cluster, make_key):
    key = make_key("acme")
    engine = {"output_tokens": 40, "step_base_s": 0.02}
    more = {
        "gateway": {"router_replicas": 2},
        "pools": {"prefill": {"engine": engine}, "decode": {"engine": engine}},
    }
    changes = with_tenants(acme={"concurrent_requests_max": 4}, more=more)
    first, second = [await start_cluster(changes, router_id=name) for name in ("one", "two")]
    answers = await asyncio.gather(many(first, key, 10), many(second, key, 10))
    assert statuses([*answers[0], *answers[1]]) == [200] * 4 + [429] * 16
    assert next(a for a in answers[0] if a.status == 429).headers["retry-after"] == "1"
    await told(first, second)
    assert statuses(await many(second, key, 6)) == [200] * 4 + [429] * 2
    await told(first, second)
    assert statuses(await many(first, key, 6)) == [200] * 4 + [429] * 2


async def test_who_leaves_gives_back_what_was_reserved_and_pays_what_was_made(start_cluster, make_key):
    key = make_key("acme")
    engine = {"output_tokens": 200, "step_base_s": 0.01}
    more = {"pools": {"prefill": {"engine": engine}, "decode": {"engine": engine}}}
    limits = {"tokens_per_minute": 10_000, "concurrent_requests_max": 1}
    cluster = await start_cluster(with_tenants(acme=limits, more=more))
    body = {
        "model": "sim",
        "messages": [{"role": "user", "content": "x"}],
        "stream": True,
        "max_tokens": 5000,
    }
    async with cluster.http.post(
        cluster.url + "/v1/chat/completions", json=body, headers=bearer(key)
    ) as response:
        assert response.status == 200
        await response.content.readany()
        await asyncio.sleep(0.3)
        response.close()
    await cluster.assert_idle()
    again = await cluster.chat(headers=bearer(key), max_tokens=4)
    assert again.status == 200
    remaining = int(again.headers["x-ratelimit-remaining-tokens"])
    assert 9_800 <= remaining <= 9_985
    usage = (await cluster.get("/admin/usage", key="the-admin-key")).json["usage"]
    assert 15 <= next(row for row in usage if row["window"] == "day")["output_tokens"] <= 80


async def test_budgets_warn_and_stop_with_402(start_cluster, make_key):
    tokens, money = make_key("tokens"), make_key("money")
    changes = with_tenants(
        tokens={"budget": {"day": {"tokens": 200}, "warn_share": 0.5}},
        money={"budget": {"month": {"usd": 0.2}}},
        more={"models": {"sim": {**PRICES}}},
    )
    cluster = await start_cluster(changes)
    seen = []
    for _ in range(40):
        answer = await cluster.chat(headers=bearer(tokens), max_tokens=8)
        seen.append(answer)
        if answer.status != 200:
            break
    used = sum(a.json["usage"]["total_tokens"] for a in seen[:-1])
    assert seen[-1].status == 402
    assert 150 <= used <= 200
    assert seen[-1].json["error"]["code"] == seen[-1].json["error"]["type"] == "insufficient_quota"
    message = {"model": "sim", "max_tokens": 150, "messages": [{"role": "user", "content": "hi"}]}
    anthropic = await cluster.post("/v1/messages", message, x_api_key=tokens)
    assert (anthropic.status, anthropic.json["error"]["type"]) == (402, "billing_error")
    assert 0 < int(seen[-1].headers["retry-after"]) <= 86_400
    assert "x-tidemill-budget-warning" not in seen[0].headers
    assert seen[-2].headers["x-tidemill-budget-warning"].startswith("day:tokens 0.")
    assert (await cluster.decision(seen[-1]))["reasons"][-1] == "budget_used_up"
    paid = await many(cluster, money, 60, max_tokens=8)
    spent = sum(
        (a.json["usage"]["prompt_tokens"] + 2 * a.json["usage"]["completion_tokens"]) / 1000
        for a in paid
        if a.status == 200
    )
    assert {a.status for a in paid} == {200, 402}
    assert 0.12 <= spent <= 0.2
    rows = (await cluster.get("/admin/usage?tenant=money", key="the-admin-key")).json["usage"]
    assert {row["tenant"] for row in rows} == {"money"}
    assert rows[0]["cost_usd"] == pytest.approx(spent)
    assert rows[0]["refused"] == sum(a.status == 402 for a in paid)


async def test_a_budget_of_joules_stops_too(start_cluster, make_key):
    key = make_key("acme")
    cluster = await start_cluster(with_tenants(acme={"budget": {"day": {"energy_j": 50.0}}}))
    assert (await cluster.chat(headers=bearer(key))).status == 200
    payer = Payer("decode", "sim", "acme")
    cluster.core._charged(payer, EnergySource.MODELLED, 45.0)
    warned = await cluster.chat(headers=bearer(key))
    assert warned.status == 200
    assert warned.headers["x-tidemill-budget-warning"] == "day:energy_j 0.900"
    cluster.core._charged(payer, EnergySource.MODELLED, 10.0)
    assert (await cluster.chat(headers=bearer(key))).status == 402
    await told(cluster)
    rows = (await cluster.get("/admin/usage", key="the-admin-key")).json["usage"]
    assert [row["energy_modelled_j"] for row in rows] == [55.0, 55.0]


async def test_what_was_used_survives_a_router(start_cluster, make_key):
    key = make_key("acme")
    changes = with_tenants(acme={"budget": {"day": {"tokens": 100}}})
    first = await start_cluster(changes, router_id="one")
    while (await first.chat(headers=bearer(key), max_tokens=8)).status == 200:
        pass
    await first.core.tenants.close()
    first.core.tenants = None
    second = await start_cluster(changes, router_id="two")
    assert (await second.chat(headers=bearer(key), max_tokens=40)).status == 402


@pytest.mark.parametrize(("when_away", "status"), [("refuse", 503), ("allow", 200)])
async def test_without_the_ledger_it_is_as_configured(start_cluster, make_key, tmp_path, when_away, status):
    key = make_key("acme")
    (tmp_path / "tenants" / "ledger.sqlite").mkdir()
    store = {"when_away": when_away, "timeout_s": 0.3}
    cluster = await start_cluster(with_tenants(acme={"requests_per_minute": 1}, store=store))
    answers = [await cluster.chat(headers=bearer(key)) for _ in range(3)]
    assert [answer.status for answer in answers] == [status] * 3
    if when_away == "refuse":
        assert answers[0].json["error"]["code"] == "limits_unavailable"
    else:
        assert "limits_unchecked" in (await cluster.decision(answers[0]))["reasons"]
    assert await cluster.metric("tidemill_tenant_ledger_failures_total") >= 1
    assert (await cluster.get("/admin/usage", key="the-admin-key")).status == 503


async def test_a_ledger_that_fails_in_a_way_nobody_thought_of_holds_nobody_up(start_cluster, make_key):
    key = make_key("acme")
    cluster = await start_cluster(with_tenants(acme={"requests_per_minute": 9}))
    assert (await cluster.chat(headers=bearer(key))).status == 200
    gate = cluster.core.tenants.gate
    gate._ledger._transaction = None  # whatever it is asked now is a TypeError
    for lease in gate.leases("acme").leases:
        lease.until_s = 0.0
    began_at_s = time.monotonic()
    answer = await cluster.chat(headers=bearer(key))
    assert (answer.status, answer.json["error"]["code"]) == (503, "limits_unavailable")
    assert time.monotonic() - began_at_s < 10.0, "it waited for the ledger"


async def test_cached_answers_are_a_tenants_own_and_cost_nothing(start_cluster, make_key):
    first, same, other = make_key("acme"), make_key("acme"), make_key("other")
    changes = with_tenants(acme={"budget": {"day": {"tokens": 10_000}}}, other={})
    cluster = await start_cluster({**changes, "semantic_cache": {}})
    ask = {"temperature": 0, "max_tokens": 8}
    assert (await cluster.chat(headers=bearer(first), **ask)).headers["x-tidemill-cache"] == "miss"
    assert (await cluster.chat(headers=bearer(same), **ask)).headers["x-tidemill-cache"] == "exact"
    assert (await cluster.chat(headers=bearer(other), **ask)).headers["x-tidemill-cache"] == "miss"
    await cluster.assert_idle()
    rows = (await cluster.get("/admin/usage?tenant=acme", key="the-admin-key")).json["usage"]
    assert (rows[0]["requests"], rows[0]["cached"], rows[0]["output_tokens"]) == (2, 1, 8)
    assert (await cluster.get("/admin/usage?tenant=nobody", key="the-admin-key")).status == 404


async def test_a_deadline_is_kept_or_refused(start_cluster):
    engine = {"output_tokens": 60, "step_base_s": 0.02}
    pools = {
        "prefill": {"engine": engine},
        "decode": {"engine": engine, "max_concurrent_requests": 1, "replicas": {"min": 1, "max": 1}},
    }
    cluster = await start_cluster({"pools": pools, "semantic_cache": {"enabled": False}})
    busy = asyncio.create_task(cluster.chat("busy"))
    await cluster.until(lambda: cluster.core.queue.in_flight == 1)
    late = await cluster.chat("late", headers={"x-tidemill-deadline-s": "0.2"})
    assert late.status in (429, 503)
    assert not busy.done(), "it was told at once"
    assert (await busy).status == 200
    for bad in ("soon", "-1", "0", "nan", "inf"):
        answer = await cluster.chat(headers={"x-tidemill-deadline-s": bad})
        assert (answer.status, answer.json["error"]["param"]) == (400, "x-tidemill-deadline-s"), bad
    assert (await cluster.chat(headers={"x-tidemill-deadline-s": "30"})).status == 200
