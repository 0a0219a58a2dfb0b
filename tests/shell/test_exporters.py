"""Router, semantic cache and pager together show exactly the catalogue."""

import asyncio
import time
from pathlib import Path

import httpx

from cluster.config import parse_config
from cluster.entities.energy import EnergySource
from cluster.entities.fleet import (
    ClassForecast,
    FleetPlan,
    PoolObservation,
    PoolTarget,
    ReplicaObservation,
    ReplicaStage,
)
from cluster.entities.pool import PoolName, ReplicaId, Role
from cluster.entities.reasons import Reason
from cluster.metrics import CATALOGUE
from cluster.performance.profiles import pool_performance
from deployments.adapter_pager.entries import Shelf
from deployments.adapter_pager.metrics import PagerMetrics
from deployments.messages import FleetState, PublishedPlan
from deployments.router.core import RouterCore, RouterSettings
from deployments.router.metrics.token_gaps import TokenGaps
from deployments.semantic_cache.service import CacheService
from deployments.semantic_cache.sqlite_documents import SqliteDocuments

_CONFIG = """
models: {sim: {source: simulated, slo: {attainment: 0.9}}}
pools: {decode: {model: sim, engine: {kind: simulated}}}
semantic_cache: {semantic: {enabled: true}}
"""
_PERFORMANCE = pool_performance(parse_config(_CONFIG).pools["decode"], parse_config(_CONFIG).models["sim"])


def _plan(decided_at_s: float) -> PublishedPlan:
    replica = ReplicaObservation(replica_id=ReplicaId("a"), stage=ReplicaStage.READY)
    pool = PoolObservation(
        pool=PoolName("decode"),
        model="sim",
        role=Role.COMBINED,
        gpu_type="cpu",
        replicas=(replica,),
        replicas_wanted=2,
        performance=_PERFORMANCE,
        power_w=15.0,
        power_source=EnergySource.MODELLED,
        reported_at_s=decided_at_s - 3.0,
    )
    forecast = ClassForecast(
        model="sim",
        workload_class="0-512",
        arrivals_per_s=3.0,
        arrivals_mean_per_s=2.0,
        prompt_tokens=1.0,
        prompt_tokens_squared=1.0,
        output_tokens=1.0,
        context_tokens=1.0,
        cached_fraction=0.0,
    )
    target = PoolTarget(pool=PoolName("decode"), replicas=3, reasons=(Reason.DEMAND_RISING,))
    return PublishedPlan(
        decided_at_s=decided_at_s,
        policy="unit_commitment",
        plan=FleetPlan(pools=(target,)),
        pools=(pool,),
        forecast=(forecast,),
        reasons=(Reason.SLO_NOT_MET,),
    )


def _families(text: str) -> dict[str, str]:
    lines = [line.split() for line in text.splitlines() if line.startswith("# TYPE ")]
    return {name: kind for _, _, name, kind in lines if not name.endswith("_created")}


async def _router_text() -> str:
    core = RouterCore(parse_config(_CONFIG), RouterSettings(state_dir="", admin_key=""), router_id="router-1")
    core.apply(FleetState(version=1, plan=_plan(time.time() - 5.0)))
    gaps = TokenGaps()
    for at_s, chunk in ((1.0, b"data: a"), (1.03, b"data: b"), (1.53, b"data: c"), (9.0, b"data: [DONE]")):
        gaps.piece(chunk, at_s)
    core.state_metrics.gaps("combined", gaps)
    core.demand.results["sim", "met"] += 3
    core.demand.arrived("sim", 7)
    await asyncio.sleep(0)
    return core.metrics.text(in_flight=0, queued=0).decode()


async def _cache_text(folder: Path) -> str:
    service = CacheService(
        parse_config(_CONFIG).semantic_cache,
        time.monotonic,
        body_bytes_max=1000,
        documents=SqliteDocuments(folder / "near.sqlite"),
    )
    await service.start()
    try:
        transport = httpx.ASGITransport(app=service.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://cache") as client:
            return (await client.get("/metrics")).text
    finally:
        await service.close()


async def test_the_exporters_show_the_catalogue_and_nothing_else(tmp_path: Path) -> None:
    texts = (await _router_text(), await _cache_text(tmp_path), PagerMetrics().text(Shelf()).decode())
    shown = [_families(text) for text in texts]
    names = [name for families in shown for name in families]
    assert len(names) == len(set(names)), "each metric has one exporter"
    together = {name: kind for families in shown for name, kind in families.items()}
    assert together == {metric.name: metric.kind for metric in CATALOGUE}


async def test_what_the_router_reads_off_its_state() -> None:
    lines = set((await _router_text()).splitlines())
    for expected in (
        'tidemill_slo_requests_total{model="sim",result="met"} 3.0',
        'tidemill_slo_target_ratio{model="sim"} 0.9',
        'tidemill_demand_requests_total{model="sim",workload_class="0-512"} 1.0',
        'tidemill_forecast_requests_per_second{bound="mean",model="sim",workload_class="0-512"} 2.0',
        'tidemill_forecast_requests_per_second{bound="upper",model="sim",workload_class="0-512"} 3.0',
        'tidemill_plan_reasons{reason="slo_not_met"} 1.0',
        'tidemill_pool_plan_reasons{pool="decode",reason="demand_rising"} 1.0',
        'tidemill_pool_replicas_requested{pool="decode"} 2.0',
        'tidemill_pool_replicas_wanted{pool="decode"} 3.0',
        'tidemill_pool_report_age_seconds{pool="decode"} 3.0',
        'tidemill_itl_seconds_bucket{le="0.05",path="combined"} 1.0',
        'tidemill_itl_seconds_bucket{le="0.5",path="combined"} 2.0',
        'tidemill_itl_seconds_count{path="combined"} 2.0',
    ):
        assert expected in lines, expected
    (age,) = [line for line in lines if line.startswith("tidemill_plan_age_seconds ")]
    assert 5.0 <= float(age.split()[1]) < 15.0, "it grows without anybody telling"
