"""A fleet that does at once what a rule wants of it."""

from cluster.config import parse_config
from cluster.entities.fleet import (
    ClassDemand,
    DemandWindow,
    FleetSnapshot,
    ModelBacklog,
    PoolObservation,
    ProvisionerState,
    ReplicaObservation,
    ReplicaStage,
)
from cluster.performance.profiles import pool_performance
from cluster.policy.workload_class import workload_class

ONE_POOL = parse_config("""
models: {m: {source: s, architecture: llama-3.1-8b, slo: {ttft_s: 1.0, tpot_s: 0.1, attainment: 0.95}}}
pools:
  p: {model: m, gpu_type: H100, replicas: {min: 0, max: 20, initial: 3}, max_concurrent_requests: 10}
""")
PERIOD_S = 5.0


def class_demand(config, prompt, answer, count):
    """Equal requests for the model `m` that came and were answered in one window."""
    return ClassDemand(
        model="m",
        workload_class=workload_class(prompt, config.provisioning.prompt_bands),
        arrivals=count,
        prompt_tokens=count * prompt,
        prompt_tokens_squared=float(count * prompt * prompt),
        completions=count,
        completed_prompt_tokens=count * prompt,
        output_tokens=count * answer,
        attended_tokens=float(count * answer * (prompt + answer / 2)),
    )


class World:
    """One decision after the other; what is wanted is there at once, and carries what the test says."""

    def __init__(self, decide, config=ONE_POOL, *, replicas=2):
        self.decide, self.config = decide, config
        self.state, self.decision = ProvisionerState(), None
        self.now_s = 1_000.0
        self.wanted = dict.fromkeys(config.pools, replicas)

    def step(self, ongoing=0, *, waiting=0, usage=0.0, backlog=0, demand=(), span_s=PERIOD_S, **stages):
        """One decision.

        Args:
            ongoing: requests on every pool's ready replicas, or by pool.
            waiting: how many of them wait there.
            usage: of every ready replica's KV cache.
            backlog: requests that wait in the routers.
            demand: (prompt tokens, answer's tokens, requests) since the last decision.
            span_s: time since the last decision.
            stages: how many replicas are `starting`, `draining`.
        """
        self.now_s += span_s
        self.decision = self.decide(
            FleetSnapshot(
                observed_at_s=self.now_s,
                pools=tuple(
                    self._pool(
                        name, ongoing[name] if isinstance(ongoing, dict) else ongoing, waiting, usage, stages
                    )
                    for name in sorted(self.config.pools)
                ),
                demand=DemandWindow(
                    started_at_s=self.now_s - span_s, ended_at_s=self.now_s, classes=self._classes(demand)
                ),
                backlog=(ModelBacklog(model="m", requests=backlog),),
            ),
            self.state,
            self.config,
        )
        self.state = self.decision.state
        self.wanted = {target.pool: target.replicas for target in self.decision.plan.pools}
        return self.wanted.get("p", self.wanted)

    def hold(self, seconds, *args, **kwargs):
        """Many decisions on the same observation; the last one's answer."""
        answers = [self.step(*args, **kwargs) for _ in range(round(seconds / PERIOD_S))]
        return answers[-1]

    def _pool(self, name, ongoing, waiting, usage, stages):
        settings = self.config.pools[name]
        starting, draining = stages.get("starting", 0), stages.get("draining", 0)
        ready = max(0, self.wanted[name] - starting)
        replicas = [
            ReplicaObservation(
                replica_id=f"{name}-{number:02}",
                stage=ReplicaStage.READY,
                requests_running=(ongoing - waiting) // ready + (number < (ongoing - waiting) % ready),
                requests_waiting=waiting // ready + (number < waiting % ready),
                kv_cache_usage=usage,
            )
            for number in range(ready)
        ]
        replicas += [
            ReplicaObservation(replica_id=f"{name}-s{number}", stage=ReplicaStage.STARTING)
            for number in range(starting)
        ]
        replicas += [
            ReplicaObservation(
                replica_id=f"{name}-x{number}",
                stage=ReplicaStage.DRAINING,
                requests_running=1000,
                kv_cache_usage=1.0,
            )
            for number in range(draining)
        ]
        return PoolObservation(
            pool=name,
            model=settings.model,
            role=settings.role,
            gpu_type=settings.gpu_type,
            replicas=tuple(replicas),
            replicas_wanted=self.wanted[name],
            performance=pool_performance(settings, self.config.models[settings.model]),
        )

    def _classes(self, demand):
        found = [class_demand(self.config, *row) for row in demand]
        return tuple(sorted(found, key=lambda demand: demand.workload_class))
