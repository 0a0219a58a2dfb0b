"""Which replica used which joules: meters where they read, the power model where they do not."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cluster.entities.energy import EnergyReading, EnergySource, Meter
from cluster.entities.performance import ReplicaPerformance
from cluster.entities.pool import PoolName, ReplicaId, ReplicaReport
from cluster.performance.reported import PoolPower, ReportWindows, modelled_w
from deployments.messages import NodeEnergy, ReplicaEnergy

_CPU_DEVICE = "cpu-package-"


@dataclass(slots=True)
class _Account:
    energy_j: float
    observed_at_s: float


class EnergyBook:
    """Cumulative energy by replica and meter, from one window to the next.

    Energy that a meter reads for a device goes to the replicas on it, to equal parts. A replica whose meter
    changes gets a second account: measured and modelled joules are never added up.
    """

    def __init__(self) -> None:
        self._accounts: dict[tuple[ReplicaId, Meter], _Account] = {}
        self._devices: dict[tuple[str, str], float] = {}
        self._reports: dict[ReplicaId, ReplicaReport] = {}
        self._owed_j: dict[ReplicaId, float] = {}
        """Metered since a replica's last window: meters and replicas do not report at the same instants."""
        self._windows = ReportWindows()
        self._power = PoolPower()

    def update(
        self,
        reports: Sequence[ReplicaReport],
        nodes: Sequence[NodeEnergy],
        performance: Mapping[str, ReplicaPerformance],
    ) -> tuple[ReplicaEnergy, ...]:
        """Take in one window.

        Args:
            reports: what replicas said last.
            nodes: what nodes' meters said last.
            performance: by pool.

        Returns:
            All accounts of replicas that still report.
        """
        used_j = self._device_energy(nodes)
        sharing = Counter(device for report in reports for device in _devices(report, nodes))
        watts: dict[PoolName, list[tuple[float, EnergySource]]] = {}
        for report in reports:
            devices = _devices(report, nodes)
            if devices and report.replica_id in self._reports:
                owed_j = sum(used_j[device][1] / sharing[device] for device in devices)
                self._owed_j[report.replica_id] = self._owed_j.get(report.replica_id, 0.0) + owed_j
        self._reports = {report.replica_id: report for report in reports}
        for window in self._windows.advance(reports):
            report = window.after
            devices = _devices(report, nodes)
            if devices:
                # The worst of several meters names the whole.
                meter = max((used_j[device][0] for device in devices), key=list(Meter).index)
                energy_j = self._owed_j.pop(report.replica_id, 0.0)
                power_w = energy_j / window.span_s
            else:
                known = performance.get(report.pool)
                meter = Meter.MODEL
                power_w = 0.0 if known is None else modelled_w(known, window)
                energy_j = power_w * window.span_s
            self._add(report, meter, energy_j)
            watts.setdefault(report.pool, []).append((power_w, meter.source))
        self._power.update(watts, reports)
        for key in [key for key in self._accounts if key[0] not in self._reports]:
            del self._accounts[key]
        self._owed_j = {name: owed_j for name, owed_j in self._owed_j.items() if name in self._reports}
        return self._told(performance)

    def power(self, pool: str) -> tuple[float, EnergySource] | None:
        """Power of a pool's replicas over the last window."""
        return self._power.of(pool)

    def _device_energy(self, nodes: Sequence[NodeEnergy]) -> dict[tuple[str, str], tuple[Meter, float]]:
        used: dict[tuple[str, str], tuple[Meter, float]] = {}
        seen: dict[tuple[str, str], float] = {}
        for node in nodes:
            for reading in node.readings:
                key = (node.node_id, reading.device)
                seen[key] = reading.energy_j
                before = self._devices.get(key)
                # A meter that begins anew has read less than before.
                more = 0.0 if before is None else max(0.0, reading.energy_j - before)
                used[key] = (reading.meter, more)
        self._devices = seen
        return used

    def _add(self, report: ReplicaReport, meter: Meter, energy_j: float) -> None:
        account = self._accounts.setdefault((report.replica_id, meter), _Account(0.0, report.observed_at_s))
        account.energy_j += energy_j
        account.observed_at_s = report.observed_at_s

    def _told(self, performance: Mapping[str, ReplicaPerformance]) -> tuple[ReplicaEnergy, ...]:
        told = []
        for (replica_id, meter), account in sorted(self._accounts.items()):
            report = self._reports[replica_id]
            known = performance.get(report.pool)
            told.append(
                ReplicaEnergy(
                    replica_id=replica_id,
                    pool=report.pool,
                    model=report.model,
                    meter=meter,
                    energy_j=account.energy_j,
                    idle_w=0.0 if known is None else known.power.idle_w,
                    observed_at_s=account.observed_at_s,
                )
            )
        return tuple(told)


def _devices(report: ReplicaReport, nodes: Sequence[NodeEnergy]) -> tuple[tuple[str, str], ...]:
    """The metered devices that a replica runs on; empty unless all of them are metered."""
    node = next((found for found in nodes if found.node_id == report.node_id), None)
    if node is None:
        return ()
    readable: dict[str, EnergyReading] = {reading.device: reading for reading in node.readings}
    if report.gpus:
        uuids = [node.gpu_uuids.get(gpu, gpu) for gpu in report.gpus]
        return tuple((node.node_id, uuid) for uuid in uuids) if all(u in readable for u in uuids) else ()
    if report.gpu_type != "cpu":
        return ()
    return tuple((node.node_id, device) for device in sorted(readable) if device.startswith(_CPU_DEVICE))
