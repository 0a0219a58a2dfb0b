"""The semantic tier over HTTP, with the real encoder: what is served, kept, judged and forgotten."""

import shutil

import orjson
import pytest
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from cluster.config.semantic_cache import (
    JudgeModelConfig,
)
from cluster.metrics import CATALOGUE
from cluster.policy.semantic_cache.store import PurgeScope, SemanticStore
from deployments.http_port import HttpPort
from deployments.messages import (
    CACHE_ENTRY,
    CACHE_TIER,
)
from deployments.semantic_cache.redis_documents import RedisDocuments
from deployments.semantic_cache.sqlite_documents import SqliteDocuments
from tests.shell.semantic_cache.asking import ASKED, OPPOSITE, PARAPHRASE, answer, tier

pytestmark = pytest.mark.usefixtures("models_are_read_once")


async def test_a_paraphrase_is_answered_and_its_opposite_is_not(start):
    cache = await start(tier())
    await cache.answered(ASKED, answer("Click on forgot."))
    found = await cache.ask(PARAPHRASE)
    assert (found.status_code, found.headers[CACHE_TIER]) == (200, "semantic")
    assert found.content == answer("Click on forgot.")
    assert (await cache.ask(OPPOSITE)).status_code == 204


@pytest.mark.parametrize("where", [{"tenant": "b"}, {"model": "n"}, {"scope": "77" * 32}])
async def test_nothing_crosses_an_identity(start, where):
    cache = await start(tier())
    await cache.answered(ASKED, answer("Click on forgot."))
    assert (await cache.ask(PARAPHRASE, **where)).status_code == 204


@pytest.mark.parametrize(
    "body",
    [
        answer("Click", finish_reason="length"),
        answer("", finish_reason="stop"),
        answer("x", finish_reason="tool_calls", message={"tool_calls": [{"id": "1"}], "content": "x"}),
        orjson.dumps({"error": {"message": "no"}}),
        b"not json",
    ],
)
async def test_half_answers_and_tool_calls_are_not_kept(start, body):
    cache = await start(tier())
    await cache.answered(ASKED, body)
    assert (await cache.ask(PARAPHRASE)).status_code == 204


async def test_an_answer_dies_at_its_age_however_often_it_is_served(start):
    cache = await start(tier(ttl_s=100.0))
    await cache.answered(ASKED, answer("Click on forgot."))
    for _ in range(3):
        cache.clock.now_s += 30
        assert (await cache.ask(PARAPHRASE)).status_code == 200
    cache.clock.now_s += 30
    assert (await cache.ask(PARAPHRASE)).status_code == 204


async def test_nothing_is_served_before_there_is_evidence_and_it_is_after(start):
    cache = await start(tier(verified=True))
    for number in range(60):
        scope = f"{number:064x}"
        await cache.answered(ASKED, answer("Click on forgot."), scope=scope)
        found = await cache.ask(PARAPHRASE, scope=scope)
        if found.status_code == 200:
            break
        await cache.tell(PARAPHRASE, answer("click on forgot"), scope=scope)
    assert number >= 19  # 0.86^n <= 0.05: with fewer right ones, errors of 14 % cannot be excluded
    assert found.headers[CACHE_TIER] == "semantic"


async def test_what_is_judged_the_same_shares_an_answer_from_then_on(start):
    cache = await start(tier(explore=1.0))
    await cache.answered(ASKED, answer("Click on forgot."))
    await cache.answered(PARAPHRASE, answer("Click on forgot. "))
    listed = (await cache.client.post("/inspect", json={"text": PARAPHRASE})).json()["entries"]
    assert [entry["shares_answer"] for entry in listed] == [True, False]
    await cache.answered("How can I reset the password for my account?", answer("Ask Bob about his 3 dogs."))
    stats = (await cache.client.get("/stats")).json()["semantic"]["categories"]
    assert sum(category["wrong"] for category in stats.values()) == 1


@pytest.fixture
async def serve_app():
    """Serves an application; says where."""
    ports = []

    async def serve(app):
        ports.append(HttpPort(app, host="127.0.0.1"))
        await ports[-1].start()
        return ports[-1].url

    yield serve
    for port in ports:
        await port.stop(grace_s=0.2)


@pytest.fixture
async def judged_by(start, serve_app, monkeypatch):
    """Whether "Choose forgot." was judged wrong beside "Click on forgot.", and what the judge was asked."""
    monkeypatch.setenv("JUDGE_KEY", "the-key")

    async def judged(reply, *, status=200):
        asked = []

        async def app(request):
            asked.append((await request.json(), dict(request.headers)))
            said = {"choices": [{"message": {"content": reply}}]}
            return Response(orjson.dumps(said), status_code=status)

        url = await serve_app(Starlette(routes=[Route("/v1/chat/completions", app, methods=["POST"])]))
        judge = JudgeModelConfig(url=f"{url}/v1", model="wise", api_key_env="JUDGE_KEY", timeout_s=0.5)
        cache = await start(tier(explore=1.0, judge=judge))
        await cache.answered(ASKED, answer("Click on forgot."))
        await cache.answered(PARAPHRASE, answer("Feed 3 dogs of Bob."))
        stats = (await cache.client.get("/stats")).json()["semantic"]["categories"]
        return sum(category["wrong"] for category in stats.values()), asked

    return judged


async def test_a_judge_decides_where_words_differ(judged_by):
    wrong, [(body, headers)] = await judged_by("Yes.")
    assert wrong == 0
    assert body["model"] == "wise"
    text = body["messages"][0]["content"]
    assert all(part in text for part in (PARAPHRASE, "Click on forgot.", "Feed 3 dogs of Bob."))
    assert headers["authorization"] == "Bearer the-key"
    assert "no-store" in headers["cache-control"]
    assert (await judged_by("No, they differ."))[0] == 1


@pytest.mark.parametrize(("reply", "status"), [("Perhaps.", 200), ("", 200), (None, 200), ("Yes.", 503)])
async def test_without_a_verdict_of_the_judge_the_meaning_decides(judged_by, reply, status):
    assert (await judged_by(reply, status=status))[0] == 1


async def test_a_restart_keeps_entries_and_evidence(start):
    cache = await start(tier(explore=1.0))
    await cache.answered(ASKED, answer("Click on forgot."))
    await cache.answered(PARAPHRASE, answer("Click on forgot."))
    again = await start(tier())
    assert (await again.ask("Which way can I reset my account's password?")).status_code == 200
    assert list(again.service.near.tier.evidence.everything())


@pytest.mark.parametrize(
    "scope",
    [{"tenant": "a"}, {"model": "m"}, {"text": ASKED, "similarity": 0.95}, {"entry_id": None}, {}],
)
async def test_what_is_purged_is_gone_in_memory_on_disk_and_for_equal_requests(start, scope):
    cache = await start(tier())
    await cache.answered(ASKED, answer("Click on forgot."))
    if "entry_id" in scope:
        scope = {"entry_id": (await cache.ask(PARAPHRASE)).headers[CACHE_ENTRY]}
    assert (await cache.client.post("/purge", json=scope)).json() == {"purged": 1}
    assert (await cache.ask(ASKED)).status_code == 204
    again = await start(tier())
    assert (await again.ask(PARAPHRASE)).status_code == 204


async def test_an_answer_that_was_being_computed_at_a_purge_is_not_kept(start):
    cache = await start(tier())
    await cache.ask(ASKED)
    await cache.client.post("/purge", json={"tenant": "a"})
    await cache.tell(ASKED, answer("Click on forgot."))
    assert (await cache.ask(PARAPHRASE)).status_code == 204


async def test_a_torn_file_loses_what_is_torn_and_nothing_else(start, tmp_path):
    cache = await start(tier())
    await cache.answered(ASKED, answer("Click on forgot."))
    await cache.answered("Where is the train station of Lisbon?", answer("By the river."))
    # The process is killed: its write-ahead log stays as it is, with the last bytes missing.
    shutil.copytree(tmp_path, tmp_path / "copy", ignore=shutil.ignore_patterns("copy", "*-shm"))
    log = tmp_path / "copy" / "near.sqlite-wal"
    log.write_bytes(log.read_bytes()[:-1])
    torn = await start(tier(), SqliteDocuments(tmp_path / "copy" / "near.sqlite"))
    assert (await torn.ask(PARAPHRASE)).content == answer("Click on forgot.")


async def test_all_metrics_of_the_catalogue_are_exported(start):
    cache = await start(tier())
    await cache.answered(ASKED, answer("Click on forgot."))
    await cache.ask(PARAPHRASE)
    text = (await cache.client.get("/metrics")).text
    wanted = {metric.name for metric in CATALOGUE if metric.name.startswith("tidemill_cache_")}
    assert {name for name in wanted if f"\n# TYPE {name.removesuffix('_total')}" in text} == wanted
    assert "tidemill_cache_saved_tokens_total 7.0" in text
    assert "tidemill_cache_saved_usd_total 0.25" in text


async def test_a_redis_server_keeps_it_as_well(start, redis_url):
    cache = await start(tier(explore=1.0), RedisDocuments(redis_url))
    await cache.answered(ASKED, answer("Click on forgot."))
    await cache.answered(PARAPHRASE, answer("Click on forgot."))
    again = await start(tier(), RedisDocuments(redis_url))
    asked_again = "Which way can I reset my account's password?"
    assert (await again.ask(asked_again)).content == answer("Click on forgot.")
    assert list(again.service.near.tier.evidence.everything())
    await again.client.post("/purge", json={"tenant": "a"})
    third = await start(tier(), RedisDocuments(redis_url))
    assert (await third.ask(asked_again)).status_code == 204


@pytest.mark.parametrize(("on_disk", "found"), [(0, 204), (10, 200)])
async def test_what_memory_has_no_room_for_is_found_on_disk_and_comes_back(start, on_disk, found):
    cache = await start(tier(room=2, on_disk=on_disk, share_max=1.0))
    others = (
        "Where is the harbour of the old town?",
        "Why does bread rise?",
        "When is the next spring tide?",
    )
    for text in (ASKED, *others):
        await cache.answered(text, answer(f"About: {text}"))
    said = await cache.ask(PARAPHRASE)
    assert said.status_code == found
    if on_disk:
        assert said.content == answer(f"About: {ASKED}")
        assert len(cache.service.near.tier.store) == 2
        await cache.service.near.settled()
        assert (await cache.ask(PARAPHRASE, tenant="b")).status_code == 204
        assert (await cache.ask(OPPOSITE)).status_code == 204
        assert cache.service.near.stats()["woken"] == 1


async def test_a_purge_near_a_text_reaches_the_disk(start):
    cache = await start(tier(room=1, on_disk=10, share_max=1.0))
    for text in (ASKED, "Why does bread rise?"):
        await cache.answered(text, answer(f"About: {text}"))
    purged = await cache.service.near.purge(
        PurgeScope(), vector=(await cache.service._encoder.encode([ASKED])).vectors[0], similarity_min=0.9
    )
    assert (purged.entries, purged.is_whole) == (1, True)
    assert len(cache.service.near.tier.store) == 1
    assert (await cache.ask(PARAPHRASE)).status_code == 204


async def test_a_partition_that_is_new_does_not_cost_more_the_more_others_hold(start, monkeypatch):
    cache = await start(tier(explore=1.0))
    await cache.answered(ASKED, answer("Click on forgot."))
    looked_at, entries = [], SemanticStore.entries

    def counted(store):
        looked_at.append(1)
        return entries(store)

    monkeypatch.setattr(SemanticStore, "entries", counted)
    assert (await cache.ask(PARAPHRASE, scope="6d" * 32)).status_code == 204
    assert looked_at == []


async def test_what_grew_too_old_on_disk_takes_no_room_in_memory(start):
    cache = await start(tier(ttl_s=100.0))
    await cache.answered(ASKED, answer("Click on forgot."))
    again = await start(tier(ttl_s=100.0))
    again.clock.now_s = cache.clock.now_s + 200.0
    assert (await again.ask(PARAPHRASE)).status_code == 204
    assert len(again.service.near.tier.store) == 0
