"""The fleet that replica routing policies are compared on, and one run of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cluster.config import TidemillConfig
from cluster.config.routing import ReplicaPolicyName
from cluster.simulation.fleet import SimulatedReplica
from cluster.simulation.run import Simulation
from cluster.simulation.scenario import Scenario
from cluster.simulation.traffic.trace import Trace

_BATCH_TOKENS = 8192
_PROMPT_BLOCK_TOKENS = 512
"""Of Mooncake's traces."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetShape:
    """Replicas and what they can do."""

    replicas: int = 8
    prefill_tokens_per_s: float = 9000.0
    """Of a replica that does nothing else; with two kinds, the mean of both."""
    step_s: float = 0.03
    """A decode step, whatever the batch."""
    cached_blocks: int = 1500
    """Blocks of 512 tokens that fit into a replica's KV cache."""
    slow_ratio: float = 1.0
    """How many times slower the second half of the replicas is; 1 makes all equal."""

    def config(self) -> TidemillConfig:
        """The fleet as a configuration."""
        halves = (
            [self.replicas]
            if self.slow_ratio == 1.0
            else [self.replicas - self.replicas // 2, self.replicas // 2]
        )
        # Both kinds together compute as many tokens as equal ones would.
        fast = (
            self.prefill_tokens_per_s
            * self.replicas
            / sum(count / slower for count, slower in zip(halves, (1.0, self.slow_ratio), strict=False))
        )
        pools = {
            name: self._pool(gpu_type, count, fast / slower, self.step_s * slower)
            for name, gpu_type, count, slower in zip(
                ("fast", "slow"), ("H100", "A100"), halves, (1.0, self.slow_ratio), strict=False
            )
        }
        return TidemillConfig.model_validate(
            {
                "models": {"llama": {"source": "llama", "architecture": "llama-3.1-8b"}},
                "pools": pools,
                # What the routers believe of a prefix cache is as large as the cache.
                "routing": {"replicas": {"prefix_blocks_per_replica_max": self.cached_blocks}},
                "gateway": {"queue_timeout_s": 3600.0},
            }
        )

    def _pool(self, gpu_type: str, replicas: int, tokens_per_s: float, step_s: float) -> dict[str, Any]:
        return {
            "model": "llama",
            "gpu_type": gpu_type,
            "replicas": {"min": replicas, "max": replicas},
            "max_concurrent_requests": 256,
            "performance": {
                "step_base_s": step_s,
                "step_per_sequence_s": 0.0,
                "step_per_context_token_s": 0.0,
                "prefill_token_s": 1.0 / tokens_per_s - step_s / _BATCH_TOKENS,
                "batch_tokens_max": _BATCH_TOKENS,
                "sequences_max": 256,
                "kv_tokens_max": self.cached_blocks * _PROMPT_BLOCK_TOKENS,
                "kv_block_tokens": 16,
            },
        }


def with_routing(
    config: TidemillConfig, policy: ReplicaPolicyName, settings: Mapping[str, Any]
) -> TidemillConfig:
    """The same fleet with another policy and other settings of `routing.replicas`."""
    data = config.model_dump(mode="json")
    data["routing"]["replicas"] |= {"policy": policy, **settings}
    return TidemillConfig.model_validate(data)


def with_drawn_gaps(trace: Trace, seed: int) -> Trace:
    """Every arrival at a random instant between its own and the next one's.

    The published times are rounded to seconds, so nobody knows them better; order and rate stay.
    """
    gaps_s = np.diff(trace.arrival_s, append=trace.arrival_s[-1])
    drawn = np.random.default_rng(seed).random(len(trace))
    return replace(trace, arrival_s=trace.arrival_s + drawn * gaps_s)


def run(
    config: TidemillConfig, trace: Trace, *, seed: int, routers: int = 1, snapshot_s: float = 0.2
) -> dict[str, float | int]:
    """Simulate and measure.

    Args:
        config: a fleet of one model.
        trace: its traffic.
        seed: of the routers' chance and of the instants of arrival.
        routers: how many share the traffic.
        snapshot_s: how often they hear of each other's requests.
    """
    scenario = Scenario(
        config=config,
        traces={next(iter(config.models)): with_drawn_gaps(trace, seed)},
        seed=seed,
        policy="fixed",
        routers=routers,
        snapshot_s=snapshot_s,
    )
    simulation = Simulation(scenario)
    report = simulation.run()
    replicas = [replica for pool in simulation.world.pools.values() for replica in pool.ready]
    return {
        "mean_ttft_s": report.ttft_s["mean"],
        "p50_ttft_s": report.ttft_s["p50"],
        "p90_ttft_s": report.ttft_s["p90"],
        "p99_ttft_s": report.ttft_s["p99"],
        "mean_tpot_s": report.tpot_s["mean"],
        "prefix_hit_ratio": report.cached_tokens / max(1, report.prompt_tokens),
        "skew": _skew(replicas),
        "energy_j": report.energy_j,
        "energy_j_per_output_token": report.joules_per_output_token,
        "requests": report.requests,
        "completed": report.completed,
        "rejected": report.rejected,
    }


def _skew(replicas: Sequence[SimulatedReplica]) -> float:
    """The busiest replica's seconds of prefill by the mean of all."""
    busy_s = [r.engine.meter.prefill_tokens / r.prefill_tokens_per_s for r in replicas]
    return max(busy_s) * len(busy_s) / max(sum(busy_s), 1e-9)
