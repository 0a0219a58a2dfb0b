"""Energy of requests, window by window."""

from cluster.config.telemetry import TelemetryConfig
from cluster.entities.energy import Meter
from deployments.messages import ReplicaEnergy
from deployments.router.fleet.energy import EnergyEntry, EnergyLedger


class Clock:
    now_s = 0.0

    def __call__(self):
        return self.now_s


def account(energy_j, at_s):
    return ReplicaEnergy(
        replica_id="p-1",
        pool="p",
        model="m",
        meter=Meter.NVML_COUNTER,
        energy_j=energy_j,
        idle_w=0.0,
        observed_at_s=at_s,
    )


def test_a_clock_that_was_set_back_costs_one_window_and_not_an_hour_of_them():
    clock, charged = Clock(), []
    ledger = EnergyLedger(
        TelemetryConfig(), clock, lambda *charge: charged.append(charge[2]), lambda *_: None
    )
    made = iter(range(10, 1000, 10))
    ledger.begin(
        EnergyEntry(
            replica_id="p-1",
            pool="p",
            model="m",
            tenant="t",
            prefill_tokens=0,
            began_at_s=0.0,
            tokens=lambda: next(made),
        )
    )
    for energy_j, at_s in ((0.0, 5_000.0), (40.0, 5_001.0), (70.0, 1_402.0), (95.0, 1_403.0)):
        clock.now_s += 1.0
        ledger.settle([account(energy_j, at_s)])
    assert charged == [40.0, 25.0]


def test_a_window_is_told_once_for_each_payer_and_charged_to_every_request():
    clock, charged = Clock(), []
    ledger = EnergyLedger(TelemetryConfig(), clock, lambda *charge: charged.append(charge), lambda *_: None)
    entries = [
        ledger.begin(
            EnergyEntry(
                replica_id="p-1",
                pool="p",
                model="m",
                tenant=tenant,
                prefill_tokens=10,
                began_at_s=0.0,
                tokens=lambda: 5,
            )
        )
        for tenant in ("a", "a", "b")
    ]
    for energy_j, at_s in ((0.0, 1.0), (30.0, 2.0)):
        clock.now_s = at_s
        ledger.settle([account(energy_j, at_s)])
    assert [(payer.tenant, energy_j) for payer, _, energy_j in charged] == [("a", 20.0), ("b", 10.0)]
    assert [sum(entry.energy_j.values()) for entry in entries] == [10.0, 10.0, 10.0]
