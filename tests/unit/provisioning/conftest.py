"""Fleets, snapshots and a fluid fleet that starts and stops replicas without engines."""

from dataclasses import replace

import pytest

from cluster.config import parse_config
from cluster.entities.fleet import (
    DemandWindow,
    FleetSnapshot,
    PoolObservation,
    ProvisionerState,
    ReplicaObservation,
    ReplicaStage,
)
from cluster.performance.profiles import pool_performance
from tests.unit.provisioning.world import class_demand

CONFIG = """
models:
  m: {source: s, architecture: llama-3.1-8b, slo: {ttft_s: 2.0, tpot_s: 0.1, attainment: 0.95}}
pools:
  h100: {model: m, gpu_type: H100, replicas: {min: 0, max: 8, initial: 1}, max_concurrent_requests: 128}
  l4: {model: m, gpu_type: L4, replicas: {min: 0, max: 8}, max_concurrent_requests: 16}
provisioning: {period_s: 10}
"""


class FluidFleet:
    """Demand goes in, decisions come out; replicas are ready as soon as `start_s` has passed."""

    def __init__(self, text=CONFIG, *, prompt_tokens=400, output_tokens=150):
        self.config = parse_config(text)
        self.state = ProvisionerState()
        self.at_s = 1_000.0
        self.wanted = {name: pool.replicas.start for name, pool in self.config.pools.items()}
        self.since_s = {name: [0.0] * count for name, count in self.wanted.items()}
        self.performance = {
            name: pool_performance(pool, self.config.models[pool.model])
            for name, pool in self.config.pools.items()
        }
        self.placeable = dict.fromkeys(self.wanted)
        self.unplaced_since_s = dict.fromkeys(self.wanted)
        self.prompt_tokens, self.output_tokens = prompt_tokens, output_tokens
        self.decision = None

    def pool(self, name, *, reported_at_s=None):
        settings = self.config.pools[name]
        replicas = tuple(
            ReplicaObservation(
                replica_id=f"{name}-{number}",
                stage=ReplicaStage.READY
                if self.at_s - since_s >= self.performance[name].start_s
                else ReplicaStage.STARTING,
                since_s=since_s,
            )
            for number, since_s in enumerate(self.since_s[name])
        )
        return PoolObservation(
            pool=name,
            model=settings.model,
            role=settings.role,
            gpu_type=settings.gpu_type,
            replicas=replicas,
            replicas_wanted=self.wanted[name],
            replicas_placeable=self.placeable[name],
            unplaced_since_s=self.unplaced_since_s[name],
            performance=self.performance[name],
            reported_at_s=self.at_s if reported_at_s is None else reported_at_s,
        )

    def demand(self, rate_per_s, span_s):
        count = round(rate_per_s * span_s)
        return (class_demand(self.config, self.prompt_tokens, self.output_tokens, count),) if count else ()

    def snapshot(self, rate_per_s, *, span_s=10.0, reported_at_s=None):
        window = DemandWindow(
            started_at_s=self.at_s - span_s, ended_at_s=self.at_s, classes=self.demand(rate_per_s, span_s)
        )
        pools = tuple(self.pool(name, reported_at_s=reported_at_s) for name in sorted(self.config.pools))
        return FleetSnapshot(observed_at_s=self.at_s, pools=pools, demand=window)

    def step(self, policy, rate_per_s, *, span_s=10.0, **changes):
        """One decision; returns replicas wanted by pool."""
        self.at_s += span_s
        snapshot = replace(self.snapshot(rate_per_s, span_s=span_s), **changes)
        self.decision = policy(snapshot, self.state, self.config)
        self.state = self.decision.state
        for target in self.decision.plan.pools:
            name, now = target.pool, self.since_s[target.pool]
            limit = self.placeable[name]
            reachable = target.replicas if limit is None else min(target.replicas, limit)
            self.wanted[name] = target.replicas
            self.since_s[name] = (now + [self.at_s] * max(0, reachable - len(now)))[: max(reachable, 0)]
        return dict(self.wanted)

    def run(self, policy, rates, **options):
        """Many decisions; returns replicas wanted by pool after each."""
        return [self.step(policy, rate, **options) for rate in rates]


@pytest.fixture
def fleet():
    return FluidFleet
