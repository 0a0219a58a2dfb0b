"""Keys and ledgers: the same on disk and on a Redis server, exact for several routers."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import redis

from cluster.config.tenants import TenantConfig, TenantStoreConfig
from cluster.entities.tenancy import Usage, Window
from cluster.policy.tenancy.account import Order
from deployments.semantic_cache.redis_documents import RedisDocuments
from deployments.tenants.keys import KeysUnreadableError, new_key, recognise
from deployments.tenants.ledger import LedgerAwayError, Terms
from deployments.tenants.sqlite_ledger import SqliteLedger
from deployments.tenants.stores import key_store, ledger

TERMS = Terms.of(TenantConfig(requests_per_minute=200, concurrent_requests_max=5))


@pytest.fixture(params=["sqlite", "redis"])
def store(request, tmp_path):
    url = request.getfixturevalue("redis_url") if request.param == "redis" else "redis://127.0.0.1:1/0"
    config = TenantStoreConfig(kind=request.param, redis_url=url, timeout_s=2.0)
    return config, str(tmp_path)


def draw(router, **fields):
    return Order(tenant="t", router=router, needs={"minute:requests": 1.0}, **fields)


def test_routers_that_draw_at_the_same_time_get_no_more_than_the_limit(store):
    granted, failures = [], []

    def router(name):
        book = ledger(*store)
        book.open()
        for _ in range(120):
            reply = book.exchange([(draw(name, ahead={"minute:requests": 4.0}, share=0.25), TERMS)])[0]
            granted.append(reply.granted["minute:requests"])
        book.close()

    def guarded(name):
        try:
            router(name)
        except Exception as error:  # noqa: BLE001 - shown by the assertion below
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(f"r{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert sum(granted) == 200.0


def test_what_one_router_holds_another_sees(store):
    first, second = ledger(*store), ledger(*store)
    assert first.exchange([(Order(tenant="t", router="a", places=4), TERMS)])[0].places == 4
    assert second.exchange([(Order(tenant="t", router="b", places=4), TERMS)])[0].places == 1
    assert first.exchange([(Order(tenant="t", router="a", places=0), TERMS)])[0].places == 0
    assert second.exchange([(Order(tenant="t", router="b", places=4), TERMS)])[0].places == 4


def test_usage_adds_up_and_a_report_counts_once(store):
    book = ledger(*store)
    book.add_usage("a", 1, {"t": Usage(requests=2, output_tokens=10, usd=0.5, modelled_j=1.5)})
    book.add_usage("a", 1, {"t": Usage(requests=2, output_tokens=10, usd=0.5, modelled_j=1.5)})
    ledger(*store).add_usage("b", 1, {"t": Usage(requests=1, measured_j=2.0), "u": Usage(refused=1)})
    rows = {(row.tenant, row.window): row.usage for row in book.usage()}
    expected = Usage(requests=3, output_tokens=10, usd=0.5, modelled_j=1.5, measured_j=2.0)
    assert rows["t", Window.DAY] == rows["t", Window.MONTH] == expected
    assert rows["u", Window.DAY] == Usage(refused=1)


def test_keys_are_changed_as_a_whole_and_changes_are_seen(store):
    keys = key_store(*store)
    assert keys.read() == {}
    before = keys.version()
    made = [new_key("t", name=str(i), now_s=1.0, expires_at_s=None) for i in range(8)]

    def add(record):
        key_store(*store).change(lambda known: {**known, record.key_id: record})

    threads = [threading.Thread(target=add, args=(record,)) for record, _ in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    known = keys.read()
    assert len(known) == 8
    assert keys.version() != before
    record, text = made[3]
    assert recognise(text, known) == record
    keys.change(lambda _: {record.key_id: replace(record, revoked_at_s=2.0)})
    assert not keys.read()[record.key_id].is_valid(3.0)
    assert len(keys.read()) == 1


def test_a_server_that_is_away_is_said_without_its_password(tmp_path):
    config = TenantStoreConfig(kind="redis", redis_url="redis://:hunter2@127.0.0.1:1/0", timeout_s=0.3)
    with pytest.raises(LedgerAwayError) as away:
        ledger(config, str(tmp_path)).usage()
    assert "hunter2" not in str(away.value)
    with pytest.raises(KeysUnreadableError) as unread:
        key_store(config, str(tmp_path)).read()
    assert "hunter2" not in str(unread.value)


def test_a_password_comes_from_the_environment(redis_url, tmp_path, monkeypatch):
    monkeypatch.setenv("TENANTS_PASSWORD", "hunter2")
    config = TenantStoreConfig(
        kind="redis", redis_url=redis_url, redis_password_env="TENANTS_PASSWORD", timeout_s=2.0
    )
    admin = redis.Redis.from_url(redis_url)
    admin.config_set("requirepass", "hunter2")
    try:
        assert key_store(config, str(tmp_path)).read() == {}
        assert ledger(config, str(tmp_path)).exchange([(draw("a"), TERMS)])
        RedisDocuments(redis_url, password="hunter2").open()
        monkeypatch.delenv("TENANTS_PASSWORD")
        with pytest.raises(KeysUnreadableError, match="AuthenticationError"):
            key_store(config, str(tmp_path)).read()
    finally:
        redis.Redis.from_url(redis_url, password="hunter2").config_set("requirepass", "")


def test_a_damaged_ledger_is_away_and_not_overwritten(tmp_path):
    config = TenantStoreConfig()
    file = tmp_path / "tenants" / "ledger.sqlite"
    file.parent.mkdir()
    file.write_bytes(b"this is no database" * 100)
    with pytest.raises(LedgerAwayError):
        ledger(config, str(tmp_path)).exchange([(draw("a"), TERMS)])
    assert file.read_bytes().startswith(b"this is no database")


def test_routers_that_open_a_new_ledger_at_once_all_get_it(tmp_path):
    def opened(number):
        one = SqliteLedger(tmp_path / f"{number // 8}" / "ledger.sqlite", timeout_s=1.0)
        one.open()
        one.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(opened, range(400)))
