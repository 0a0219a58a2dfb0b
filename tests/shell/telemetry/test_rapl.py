"""CPU packages through a powercap folder as the kernel makes it, and a meter that stands still."""

import pytest

from cluster.config.telemetry import TelemetryConfig
from operators.telemetry.agent import NodeMeters
from operators.telemetry.rapl import RaplMeter

RANGE_UJ = 1_000_000_000


class Clock:
    now_s = 100.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def powercap(tmp_path):
    """`powercap("intel-rapl:0", "package-0", 5)` sets a counter, in microjoules."""

    def put(folder, name, energy_uj):
        place = tmp_path / folder
        place.mkdir(exist_ok=True)
        (place / "name").write_text(f"{name}\n")
        (place / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
        (place / "energy_uj").write_text(f"{energy_uj}\n")

    put.root = tmp_path
    return put


def test_a_package_is_counted_over_the_wrap_of_its_counter(powercap, clock):
    powercap("intel-rapl:0", "package-0", RANGE_UJ - 3_000_000)
    meter = RaplMeter(powercap.root, clock)
    meter.sample()
    powercap("intel-rapl:0", "package-0", 2_000_000)
    clock.now_s += 1.0
    meter.sample()
    (reading,) = meter.readings()
    assert (reading.device, reading.energy_j, reading.observed_at_s) == ("cpu-package-0", 5.0, 101.0)


def test_what_contains_packages_or_is_contained_in_one_is_not_counted_besides(powercap, clock):
    powercap("intel-rapl:0", "package-0", 0)
    powercap("intel-rapl:0:0", "core", 0)
    powercap("intel-rapl:1", "psys", 0)
    powercap("intel-rapl-mmio:0", "package-0", 0)
    meter = RaplMeter(powercap.root, clock)
    meter.sample()
    assert [reading.device for reading in meter.readings()] == ["cpu-package-0"]
    assert meter.errors == {}


def test_what_may_not_be_read_is_said_and_read_again_when_it_may(powercap, clock):
    powercap("intel-rapl:0", "package-0", 0)
    meter = RaplMeter(powercap.root, clock)
    (powercap.root / "intel-rapl:0" / "energy_uj").unlink()
    meter.sample()
    assert meter.readings() == ()
    assert meter.errors == {"cpu-package-0": "absent"}
    powercap("intel-rapl:0", "package-0", 7)
    meter.sample()
    assert meter.errors == {}
    assert len(meter.readings()) == 1


def test_a_machine_without_counters_says_so(tmp_path, clock):
    assert RaplMeter(tmp_path / "nowhere", clock).errors == {"rapl": "absent"}


def test_a_meter_that_hangs_is_not_a_device_that_draws_nothing(powercap, clock):
    """A driver in trouble does not return; the last reading would stand for zero watts, measured."""
    powercap("intel-rapl:0", "package-0", 0)
    config = TelemetryConfig(nvml=False, rapl_root=str(powercap.root), sample_period_s=0.2)
    meters = NodeMeters(config, clock)
    meters.sample()
    clock.now_s += 1.0
    report = meters.report("n")
    assert ([reading.device for reading in report.readings], report.errors) == (["cpu-package-0"], ())
    clock.now_s += 10.0
    report = meters.report("n")
    assert report.readings == ()
    assert report.errors == (("rapl", "cpu-package-0", "silent"),)
    meters.sample()
    assert meters.report("n").errors == ()
