"""The gate of tenants: what was reserved is not lost, whenever the ledger's answer comes."""

import asyncio
import time

import pytest

from cluster.config.tenants import TenantConfig, TenantStoreConfig
from deployments.router.tenants.gate import Size, TenantGate
from deployments.tenants.sqlite_ledger import SqliteLedger

SIZE = Size(prompt_tokens=10, output_tokens=10, flexible=False, usd_per_token=(0.0, 0.0))
PATIENCE_S = 0.2


@pytest.fixture
async def gate(tmp_path):
    made = TenantGate(
        {"acme": TenantConfig(concurrent_requests_max=1)},
        TenantStoreConfig(timeout_s=PATIENCE_S),
        SqliteLedger(tmp_path / "ledger.sqlite", timeout_s=1.0),
        router="r",
        routers=1,
        now_s=asyncio.get_running_loop().time,
        on_away=lambda: None,
    )
    yield made
    await made.close()


async def test_a_place_that_comes_as_the_patience_ends_is_not_lost(gate, monkeypatch):
    in_thread = gate._in_thread

    async def in_the_last_instant(work):
        reply = await in_thread(work)
        came = asyncio.get_running_loop().create_future()

        def come():
            time.sleep(PATIENCE_S)  # a busy loop: the answer and the end of the patience wait in it together
            came.set_result(None)

        asyncio.get_running_loop().call_soon(come)
        await came
        return reply

    monkeypatch.setattr(gate, "_in_thread", in_the_last_instant)
    reservation = await gate.admit("acme", SIZE)
    monkeypatch.undo()
    leases = gate.leases("acme")
    assert reservation is not None
    assert leases.in_use == 1
    leases.settle(reservation, tokens=20.0, usd=0.0, now_s=asyncio.get_running_loop().time())
    assert leases.in_use == 0
