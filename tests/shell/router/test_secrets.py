"""A canary in every secret: whatever happens, it is found in no log, metric, record or answer."""

import asyncio
import logging
import time

import orjson

from deployments.tenants.keys import FileKeys, new_key

PROMPT = "canary-prompt-5d1f"


async def _everything(cluster, keys):
    """Requests that succeed and fail in every way, with secrets where they belong and where they do not."""
    answers = []
    bodies = (
        {},
        {"stream": True},
        {"model": "nosuch"},
        {"max_tokens": 100_000_000},
        {"max_tokens": -1},
        {"n": ""},
    )
    paths = ("/v1/models", "/v1/models/nosuch", "/admin/fleet", "/admin/usage", "/nosuch", "/metrics")
    for key in keys:
        for header in ({"authorization": f"Bearer {key}"}, {"x-api-key": key}, {"authorization": key}):
            answers += [await cluster.chat(PROMPT, headers=header, **fields) for fields in bodies]
            answers.append(await cluster.post("/v1/chat/completions", b"{ broken", **header))
            answers.append(await cluster.post("/v1/messages", {"messages": []}, **header))
            answers.append(await cluster.post("/v1/feedback", {"decision_id": "d"}, **header))
            answers.append(await cluster.post("/v1/embeddings", {"input": PROMPT}, **header))
            answers.append(await cluster.post("/admin/cache/purge", {}, **header))
        answers += [await cluster.get(path, key=key) for path in paths]
    answers += [await cluster.chat(PROMPT, headers={"x-api-key": keys[0]}) for _ in range(3)]
    return answers


async def test_no_secret_leaves_its_place(start_cluster, given, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    store = FileKeys(tmp_path / "tenants" / "keys.json")
    record, key = new_key("acme", name="", now_s=time.time(), expires_at_s=None)
    revoked, old_key = new_key("acme", name="", now_s=time.time(), expires_at_s=time.time())
    store.change(lambda _: {record.key_id: record, revoked.key_id: revoked})
    cluster = await start_cluster(
        {
            "tenants": {
                "enabled": True,
                "tenants": {"acme": {"requests_per_minute": 5, "budget": {"day": {"tokens": 5000}}}},
            },
            "gateway": {"queue_timeout_s": 0.5},
        }
    )
    stranger = "tm-0123456789ab-canary-of-a-stranger"
    keys = [key, given.admin_key, old_key, stranger]
    answers = await _everything(cluster, keys)
    cluster.remove(*list(cluster.engines))
    answers.append(await cluster.chat("unanswered", headers={"x-api-key": given.admin_key}))
    assert {200, 400, 401, 404, 429, 503} <= {answer.status for answer in answers}
    records = [await cluster.decision(a) for a in answers if "x-tidemill-decision-id" in a.headers]
    assert len(records) >= 12
    await asyncio.sleep(0.5)  # the log is written in the background
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    places = {
        "answers": b"\n".join(a.content + repr(sorted(a.headers.items())).encode() for a in answers),
        "metrics": (await cluster.get("/metrics", key=given.admin_key)).content,
        "records": orjson.dumps(records),
        "log": caplog.text.encode(),
        "fleet": (await cluster.get("/admin/fleet", key=given.admin_key)).content,
        **{str(path): content for path, content in files.items()},
    }
    assert any("decisions" in name for name in places)
    for place, content in places.items():
        for secret in (*keys, record.sha256):
            expected = secret == record.sha256 and place.endswith("keys.json")
            assert (secret.encode() in content) == expected, f"{secret[:14]}… in {place}"
    for place in ("metrics", "records", "log", "fleet"):
        assert PROMPT.encode() not in places[place], place


async def test_no_secret_is_in_what_a_crash_leaves_behind(start_cluster, given, monkeypatch, caplog):
    cluster = await start_cluster({"tenants": {"enabled": True, "tenants": {"acme": {}}}})

    def crash(*_):
        raise RuntimeError("on purpose")

    monkeypatch.setattr(cluster.core, "signals", crash)
    answer = await cluster.chat(PROMPT, headers={"x-api-key": given.admin_key})
    assert answer.status == 500
    assert "on purpose" in caplog.text
    for secret in (given.admin_key, PROMPT):
        assert secret not in caplog.text
        assert secret.encode() not in answer.content
