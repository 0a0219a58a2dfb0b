"""A clock that is set back does not make the provisioner wait for instants that have been already."""

from cluster.entities.fleet import PoolMemory, ProvisionerState, SeriesMemory
from cluster.entities.reasons import Reason
from cluster.policy.provisioning.clock import set_back
from cluster.policy.provisioning.unit_commitment import decide


def test_rising_demand_is_seen_although_the_clock_went_back_an_hour(fleet):
    world = fleet()
    calm = world.run(decide, [5] * 60)[-1]
    world.at_s -= 3600.0
    assert world.run(decide, [120] * 6)[-1]["h100"] > calm["h100"]


def test_a_fleet_that_has_just_grown_may_grow_again(fleet):
    world = fleet()
    world.run(decide, [5] * 60)
    before = world.run(decide, [40] * 3)[-1]
    world.at_s -= 3600.0
    assert world.run(decide, [160] * 6)[-1]["h100"] > before["h100"]
    assert Reason.HELD_BY_COOL_DOWN not in world.decision.plan.pools[0].reasons


def test_a_fleet_shrinks_as_soon_as_it_would_have(fleet):
    steps = []
    for back_s in (0.0, 3600.0):
        world = fleet()
        crowd = world.run(decide, [80] * 30)[-1]
        world.at_s -= back_s
        series = world.run(decide, [5] * 120)
        steps.append(next(n for n, wanted in enumerate(series) if wanted["h100"] < crowd["h100"]))
    assert abs(steps[1] - steps[0]) <= 2, "one window is lost to the step"


def test_hardware_that_could_not_be_had_is_tried_again_in_time():
    memory = PoolMemory(unplaceable_until_s=5_600.0, changed_up_at_s=4_990.0, wishes=((4_980.0, 2),))
    series = SeriesMemory(arrived_at_s=4_995.0, pending=((5_060.0, 1.0, -1.0),))
    state = ProvisionerState(
        pools={"p": memory},
        series={"m/all": series},
        peaks={"m": ((4_900.0, 3.0),)},
        demand_seen_until_s=5_000.0,
    )
    found = set_back(state, 1_000.0)
    assert found.pools["p"] == PoolMemory(
        unplaceable_until_s=1_600.0, changed_up_at_s=990.0, wishes=((980.0, 2),)
    )
    assert found.series["m/all"] == SeriesMemory(arrived_at_s=995.0, pending=((1_060.0, 1.0, -1.0),))
    assert found.peaks == {"m": ((900.0, 3.0),)}
    assert found.demand_seen_until_s == 1_000.0
    assert set_back(state, 5_000.0) is state
