"""Tells Ray's autoscaler which nodes the plan needs, before Serve's replicas wait for them."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import ray
from ray.autoscaler.v2.sdk import request_cluster_resources

from cluster.config import TidemillConfig
from cluster.config.pools import Resources
from cluster.entities.fleet import FleetPlan, PoolObservation, ReplicaStage
from cluster.entities.reasons import Reason

_CALL_TIMEOUT_S = 5
"""Ray's own limit for the call, whole seconds."""
_THREAD_TIMEOUT_S = 15.0
"""Connecting comes on top of the call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeBundle:
    """What one replica needs of a node."""

    resources: dict[str, float]
    labels: dict[str, str] = field(default_factory=dict)
    """Label selector."""


def bundles_wanted(
    plan: FleetPlan, pools: Sequence[PoolObservation], config: TidemillConfig
) -> tuple[NodeBundle, ...]:
    """What to ask Ray's autoscaler for: everything while a pool is short, nothing otherwise.

    The autoscaler holds a request against what all nodes have in total, whoever uses it. So pools that are
    complete belong into it as well, or their nodes would be taken for those that another pool waits for. And
    when every pool is complete the request has to go: Ray may fulfil it with a node that is idle and not with
    the one that works, and then the idle one would never leave.

    Args:
        plan: what is wanted.
        pools: what was seen.
        config: says what a replica needs.
    """
    ready = {pool.pool: pool.count(ReplicaStage.READY) for pool in pools}
    short = False
    wanted: list[NodeBundle] = []
    for target in plan.pools:
        pool = config.pools[target.pool]
        if not needs_particular_nodes(pool.resources):
            continue
        replicas, running = target.replicas, ready.get(target.pool, 0)
        if Reason.UNPLACEABLE in target.reasons:
            # One bundle that no node can hold makes Ray ignore the whole request.
            replicas = min(replicas, running)
        if pool.replicas.min != pool.replicas.max:
            short = short or replicas > running
        wanted += [_bundle(pool.resources)] * replicas
    return tuple(wanted) if short else ()


def needs_particular_nodes(resources: Resources) -> bool:
    """Whether a replica runs only on some nodes; for cores and memory alone none are asked for in advance."""
    return resources.gpus > 0 or any(resources.custom.values()) or bool(resources.node_labels)


def _bundle(resources: Resources) -> NodeBundle:
    amounts = {
        "CPU": resources.cpus,
        "GPU": resources.gpus,
        "memory": float(resources.memory_bytes or 0),
        **resources.custom,
    }
    return NodeBundle(
        resources={name: amount for name, amount in amounts.items() if amount > 0},
        labels=dict(resources.node_labels),
    )


class RayNodes:
    """The request to the autoscaler of the cluster that this process belongs to.

    One request stands at a time, and each replaces the one before. Where no autoscaler runs it is kept by Ray
    and nobody reads it.
    """

    def __init__(self) -> None:
        self._under_way: asyncio.Task[None] | None = None

    async def request(self, bundles: Sequence[NodeBundle]) -> None:
        """Ask for nodes that can hold all of this at once; for nothing takes the request back.

        Raises:
            TimeoutError: Ray does not answer.
            Exception: what Ray raises.
        """
        if self._under_way is not None and not self._under_way.done():
            # A thread cannot be ended from outside; there shall not be one more each round.
            raise TimeoutError("the request before has not been answered yet")
        self._under_way = asyncio.create_task(asyncio.to_thread(_tell, tuple(bundles)))
        # One that fails after the time-out has nobody left to tell.
        self._under_way.add_done_callback(lambda task: task.cancelled() or task.exception())
        async with asyncio.timeout(_THREAD_TIMEOUT_S):
            await asyncio.shield(self._under_way)


def _tell(bundles: tuple[NodeBundle, ...]) -> None:
    gcs = ray.get_runtime_context().gcs_address
    wanted = [{"resources": bundle.resources, "label_selector": bundle.labels} for bundle in bundles]
    request_cluster_resources(gcs, wanted, timeout=_CALL_TIMEOUT_S)
