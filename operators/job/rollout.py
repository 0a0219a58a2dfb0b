"""What a job has to change where some of Tidemill may run already. Pure: facts in, a plan out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cluster.config import TidemillConfig
from cluster.config.pools import Resources
from deployments.app import (
    CACHE_APPLICATION,
    GATEWAY_APPLICATION,
    Rollout,
    application_names,
    pool_application_name,
)
from operators.job.versions import LEARNER

_POOL_PREFIX = pool_application_name("")


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """One application that Serve has."""

    healthy: bool
    """Whether it runs as it was deployed."""
    replicas: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutPlan:
    """What a job does."""

    changed: tuple[str, ...]
    """Parts that are started, or replaced by another version."""
    kept: tuple[str, ...]
    removed: tuple[str, ...]
    rollout: Rollout


def plan_rollout(
    config: TidemillConfig,
    wanted: Mapping[str, str],
    noted: Mapping[str, str],
    running: Mapping[str, Running],
    free_by_node: Sequence[Mapping[str, float]],
) -> RolloutPlan:
    """Compare what is wanted with what runs.

    Args:
        config: what is wanted.
        wanted: version of every part of it.
        noted: version of every part that runs, as far as it was noted.
        running: what Serve has, by application.
        free_by_node: resources that nobody uses, node by node.
    """
    applications = application_names(config)
    changed = tuple(
        part
        for part in wanted
        if noted.get(part) != wanted[part]
        or (part in applications and not (part in running and running[part].healthy))
    )
    removed = tuple(
        part for part in noted if part not in wanted and _is_application(part) and part in running
    )
    replicas = {}
    for name, pool in config.pools.items():
        found = running.get(pool_application_name(name))
        if found is not None:
            replicas[name] = min(max(found.replicas, pool.replicas.min), pool.replicas.max)
    rolled = [part for part in changed if part in applications]
    return RolloutPlan(
        changed=changed,
        kept=tuple(part for part in wanted if part not in changed),
        removed=removed,
        rollout=Rollout(
            applications=frozenset(rolled),
            replicas=replicas,
            surging=frozenset(
                part for part in rolled if part in running and _fits(config, part, free_by_node)
            ),
            learner=LEARNER in changed,
        ),
    )


def _is_application(part: str) -> bool:
    return part.startswith(_POOL_PREFIX) or part in (CACHE_APPLICATION, GATEWAY_APPLICATION)


def _fits(config: TidemillConfig, application: str, free_by_node: Sequence[Mapping[str, float]]) -> bool:
    """Whether one more replica would find a node now: without that an old one must leave first."""
    needs = _needs(config, application)
    return any(all(free.get(name, 0.0) >= need for name, need in needs.items()) for free in free_by_node)


def _needs(config: TidemillConfig, application: str) -> dict[str, float]:
    if application == GATEWAY_APPLICATION:
        return {"CPU": config.gateway.router_cpus}
    if application == CACHE_APPLICATION:
        return {"CPU": config.semantic_cache.cpus}
    return _of_replica(config.pools[application.removeprefix(_POOL_PREFIX)].resources)


def _of_replica(resources: Resources) -> dict[str, float]:
    amounts = {
        "CPU": resources.cpus,
        "GPU": resources.gpus,
        "memory": float(resources.memory_bytes or 0),
        **resources.custom,
    }
    return {name: amount for name, amount in amounts.items() if amount > 0}
