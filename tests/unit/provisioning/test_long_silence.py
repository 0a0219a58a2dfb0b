"""Nights, weekends, holidays: what is remembered fades to numbers near the smallest there are."""

import pytest

from cluster.policy.provisioning.unit_commitment import decide


@pytest.mark.parametrize("busy", [[20.0] * 20, [1.0, 50.0] * 20])
def test_days_without_a_request_do_not_end_the_provisioner(fleet, busy):
    world = fleet()
    world.run(decide, busy)
    for _ in range(400):
        world.step(decide, 0, span_s=600.0)
    assert world.wanted == {"h100": 0, "l4": 0}
    assert sum(world.run(decide, [20] * 5)[-1].values()) >= 1, "and it wakes up"
