"""One actor per node that serves, which reads the node's meters and tells the directory."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Collection
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.config.telemetry import TelemetryConfig
from cluster.entities.energy import EnergyReading
from deployments.directory.actor import NAMESPACE, DirectoryClient
from deployments.messages import NodeEnergy
from operators.telemetry.nvml import NvmlMeter
from operators.telemetry.rapl import RaplMeter

logger = logging.getLogger("tidemill.telemetry")

_PREFIX = "tidemill-telemetry-"
_SILENT_S = 5.0
"""Beyond a pause between readings: a driver that takes so long to answer hangs."""


class NodeMeters:
    """The meters of one node, best first for each device."""

    def __init__(self, config: TelemetryConfig, clock: Callable[[], float] = time.monotonic) -> None:
        """Open what is configured.

        Args:
            config: which meters.
            clock: monotonic seconds.
        """
        self._clock = clock
        self._silent_s = config.sample_period_s + _SILENT_S
        self._nvml = NvmlMeter(clock) if config.nvml else None
        self._rapl = RaplMeter(Path(config.rapl_root), clock) if config.rapl else None

    def sample(self) -> None:
        """Read everything once; readings of power are integrated, so often is better."""
        for meter in (self._nvml, self._rapl):
            if meter is not None:
                meter.sample()

    def report(self, node_id: str) -> NodeEnergy:
        """What the node's devices have used so far, and what cannot be read."""
        readings: list[EnergyReading] = []
        errors: list[tuple[str, str, str]] = []
        names: dict[str, str] = {}
        for name, meter in (("nvml", self._nvml), ("rapl", self._rapl)):
            if meter is None:
                continue
            for reading in meter.readings():
                if self._clock() - reading.observed_at_s > self._silent_s:
                    # What was read last would say that the device draws nothing.
                    errors.append((name, reading.device, "silent"))
                else:
                    readings.append(reading)
            # Copied: a thread reads the meters meanwhile.
            errors += [(name, device, why) for device, why in sorted(dict(meter.errors).items())]
        if self._nvml is not None:
            names = self._nvml.names()
        return NodeEnergy(
            node_id=node_id,
            readings=tuple(readings),
            errors=tuple(errors),
            gpu_uuids=names,
            observed_at_s=time.time(),
        )


class TelemetryAgent:
    """The actor's body."""

    def __init__(self, config: TelemetryConfig) -> None:
        self._config = config
        self._meters = NodeMeters(config)
        self._node_id = ray.get_runtime_context().get_node_id()
        directory = DirectoryClient()
        self._tasks = [
            asyncio.ensure_future(self._sample()),
            asyncio.ensure_future(
                directory.keep_reporting("report_energy", self._report, period_s=config.window_s)
            ),
        ]

    async def _sample(self) -> None:
        while True:
            try:
                # NVML and /sys answer in microseconds, but a driver in trouble can hang.
                await asyncio.to_thread(self._meters.sample)
            except Exception:
                # A meter that is not read any more would be told as one that stands still, for ever.
                logger.exception("the meters could not be read")
            await asyncio.sleep(self._config.sample_period_s)

    async def _report(self) -> NodeEnergy:
        return self._meters.report(self._node_id)


def ensure_agents(config: TelemetryConfig, serving: Collection[str]) -> None:
    """Start an agent on every node that serves and has none, and end those on nodes that serve nothing.

    To Ray a node with any actor on it is busy: an agent that stayed would keep it awake for ever.

    Args:
        config: what to meter.
        serving: ids of the nodes on which replicas run.
    """
    wanted = set(serving) if config.enabled else set()
    metered = _agents()
    for node_id in metered - wanted:
        _end(node_id)
    alive = {node["NodeID"] for node in ray.nodes() if node.get("Alive")}
    # Only where there is none: every `ray.remote(class)` stays in this process and in Ray's control store.
    for node_id in sorted((alive & wanted) - metered):
        with contextlib.suppress(ray.exceptions.RayError, ValueError):
            ray.remote(TelemetryAgent).options(
                name=_PREFIX + node_id,
                namespace=NAMESPACE,
                lifetime="detached",
                get_if_exists=True,
                num_cpus=0,
                max_restarts=-1,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False),
            ).remote(config)


def end_agents() -> None:
    """End all of them: those that another provisioner has started have its configuration and its code."""
    for node_id in _agents():
        _end(node_id)


def _agents() -> set[str]:
    """Ids of the nodes that have one."""
    return {
        actor["name"].removeprefix(_PREFIX)
        for actor in ray.util.list_named_actors(all_namespaces=True)
        if actor["namespace"] == NAMESPACE and actor["name"].startswith(_PREFIX)
    }


def _end(node_id: str) -> None:
    with contextlib.suppress(ray.exceptions.RayError, ValueError):
        ray.kill(ray.get_actor(_PREFIX + node_id, NAMESPACE))
