"""Whatever the provisioner depends on may be away: the fleet stays as it is, and nothing is counted twice."""

import asyncio
import errno
import logging

import pytest

from cluster.entities.energy import EnergyReading, EnergySource, Meter
from cluster.entities.reasons import Reason
from cluster.replay.provisioning import redecide_log
from deployments.messages import NodeEnergy
from operators.provisioner import journal as journal_module
from operators.provisioner.journal import LEARNT_NAME, LOG_NAME, STATE_NAME
from operators.provisioner.serve_api import ServeApiError

BUSY_PER_S = 120.0


def _decisions(provisioner):
    with (provisioner.folder / LOG_NAME).open(encoding="utf-8") as lines:
        again = list(redecide_log(lines))
    assert [entry.difference for entry in again if entry.difference] == []
    return len(again)


def _arrivals(snapshots):
    return sum(demand.arrivals for snapshot in snapshots for demand in snapshot.demand.classes)


@pytest.fixture
def written(provisioner, monkeypatch):
    """Snapshots of which a decision was written."""
    seen = []
    write = provisioner.journal.write

    def noting(snapshot, before, decision):
        write(snapshot, before, decision)
        seen.append(snapshot)

    monkeypatch.setattr(provisioner.journal, "write", noting)
    return seen


# Directory and Serve away


@pytest.mark.parametrize("away", ["overview", "pools"])
async def test_what_cannot_be_seen_is_not_decided_on(provisioner, cluster, failures, written, away):
    await provisioner.rounds(6, rate_per_s=2.0)
    state, wanted, records = provisioner.loop._state, dict(cluster.wanted), len(written)
    cluster.failing = {away: failures[away]}
    cluster.calls.clear()
    for _ in range(4):
        with pytest.raises(type(failures[away])):
            await provisioner.rounds(1, rate_per_s=BUSY_PER_S)
    assert cluster.wanted == wanted
    assert not cluster.told("scale")
    assert not cluster.told("request")
    assert provisioner.loop._state is state
    assert len(written) == records
    cluster.failing = {}
    await provisioner.rounds(1)
    assert written[-1].demand.started_at_s == written[-2].observed_at_s
    assert _arrivals(written[-1:]) == 5 * 5 * BUSY_PER_S, "the gap is in the next window, once"
    await provisioner.rounds(2)
    assert sum(cluster.wanted.values()) > sum(wanted.values())


async def test_the_loop_goes_on_after_failed_rounds(provisioner, cluster, failures, clock, config, caplog):
    settings = config.provisioning.model_copy(update={"period_s": 0.001})
    provisioner.loop._config = config.model_copy(update={"provisioning": settings})
    cluster.failing = {"overview": failures["overview"]}
    running = asyncio.create_task(provisioner.loop.run(clock))
    with caplog.at_level(logging.CRITICAL):
        while provisioner.loop.failures < 3:
            await asyncio.sleep(0.001)
    assert not cluster.published
    cluster.failing = {}
    while not cluster.published:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.005)
    assert provisioner.loop.failures == 0
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_pool_that_serve_refuses_to_resize_does_not_hold_up_the_others(provisioner, cluster):
    await provisioner.rounds(25, rate_per_s=2.0)
    assert cluster.wanted == {"h100": 0, "a100": 1}
    cluster.failing = {("scale", "a100"): ServeApiError("409")}
    for _ in range(8):
        cluster.rate_per_s = 4 * BUSY_PER_S
        cluster.advance()
        try:
            await provisioner.loop.round(cluster.now_s)
        except ServeApiError:
            continue
    assert cluster.wanted["h100"] > 0
    assert cluster.wanted["a100"] == 1
    cluster.failing = {}
    targets = await provisioner.rounds(1)
    assert cluster.wanted == targets, "and is resized as soon as it lets itself be"


async def test_a_directory_that_was_restarted_does_not_make_old_demand_new(provisioner, cluster, written):
    await provisioner.rounds(4, rate_per_s=BUSY_PER_S)
    report = cluster.router.report
    cluster.router.report = lambda _: type(report({}))(router_id="another")
    await provisioner.rounds(1)
    cluster.router.report = report
    await provisioner.rounds(1)
    assert _arrivals(written[-1:]) == 2 * 5 * BUSY_PER_S


# Telemetry


def _metered(cluster, joules_by_node, at_s=None):
    cluster.energy = [
        NodeEnergy(
            node_id=node,
            readings=(
                EnergyReading(
                    device="GPU-1",
                    meter=Meter.NVML_COUNTER,
                    energy_j=joules,
                    power_w=None,
                    observed_at_s=cluster.now_s if at_s is None else at_s,
                ),
            ),
            gpu_uuids={"0": "GPU-1"},
            observed_at_s=cluster.now_s if at_s is None else at_s,
        )
        for node, joules in joules_by_node.items()
    ]


def _energy(provisioner, meter):
    return sum(account.energy_j for account in provisioner.loop.last.energy if account.meter is meter)


def _power(provisioner, pool):
    return next(
        (found.power_w, found.power_source) for found in provisioner.loop.last.pools if found.pool == pool
    )


async def test_without_telemetry_energy_is_modelled_and_decisions_go_on(provisioner, cluster):
    provisioner.loop.paused = True
    node = f"node-h100-{cluster.replicas['h100'][0][0]}"
    _metered(cluster, {node: 1000.0})
    await provisioner.rounds(1, rate_per_s=2.0)
    _metered(cluster, {node: 2500.0})
    await provisioner.rounds(1)
    assert _power(provisioner, "h100") == (300.0, EnergySource.MEASURED)
    measured_j = _energy(provisioner, Meter.NVML_COUNTER)
    assert measured_j == 1500.0
    cluster.energy = ()
    await provisioner.rounds(3)
    power_w, source = _power(provisioner, "h100")
    assert source is EnergySource.MODELLED
    assert power_w > provisioner.loop.last.pools[-1].performance.power.idle_w
    assert _energy(provisioner, Meter.MODEL) == pytest.approx(3 * 5.0 * power_w)
    assert _energy(provisioner, Meter.NVML_COUNTER) == measured_j, "kept apart, and not guessed on"
    _metered(cluster, {node: 9000.0})
    await provisioner.rounds(1)
    assert _energy(provisioner, Meter.NVML_COUNTER) == measured_j, "what was modelled is not metered again"
    provisioner.loop.paused = False
    targets = await provisioner.rounds(6, rate_per_s=BUSY_PER_S)
    assert sum(targets.values()) > 1


async def test_a_reading_that_stands_still_is_not_counted_twice(provisioner, cluster):
    provisioner.loop.paused = True
    node = f"node-h100-{cluster.replicas['h100'][0][0]}"
    for joules in (1000.0, 2500.0, 2500.0, 2500.0):
        _metered(cluster, {node: joules})
        await provisioner.rounds(1)
    assert _energy(provisioner, Meter.NVML_COUNTER) == 1500.0
    _metered(cluster, {node: 7000.0})
    await provisioner.rounds(1)
    assert _energy(provisioner, Meter.NVML_COUNTER) == 6000.0, "and nothing of it is lost"


async def test_energy_of_a_replica_that_is_silent_for_a_while_is_not_lost(provisioner, cluster):
    provisioner.loop.paused = True
    node = f"node-h100-{cluster.replicas['h100'][0][0]}"
    for joules, silent in ((1000.0, False), (2000.0, True), (3000.0, True), (4000.0, False)):
        _metered(cluster, {node: joules})
        cluster.reported_at_s = 1_700_000_005.0 if silent else None
        await provisioner.rounds(1)
    assert _energy(provisioner, Meter.NVML_COUNTER) == 3000.0
    assert _power(provisioner, "h100")[0] == pytest.approx(3000.0 / 15.0)


# The disk


@pytest.mark.parametrize("what", ["log", "state"])
async def test_nothing_is_resized_without_a_record_of_it(provisioner, cluster, written, monkeypatch, what):
    await provisioner.rounds(6, rate_per_s=2.0)
    before, wanted, calls = _decisions(provisioner), dict(cluster.wanted), len(cluster.told("scale"))
    log = provisioner.folder / LOG_NAME
    line, text = journal_module.record_line, journal_module.state_text

    def half_a_line(*args, **more):
        with log.open("a", encoding="utf-8") as file:
            file.write(line(*args, **more)[:500])
        raise OSError(errno.ENOSPC, "No space left on device")

    def no_state(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        if what == "log":
            full.setattr(journal_module, "record_line", half_a_line)
        else:
            full.setattr(journal_module, "state_text", no_state)
        for _ in range(4):
            with pytest.raises(OSError, match="No space"):
                await provisioner.rounds(1, rate_per_s=BUSY_PER_S)
    assert cluster.wanted == wanted
    assert len(cluster.told("scale")) == calls
    monkeypatch.setattr(journal_module, "state_text", text)
    await provisioner.rounds(4)
    assert sum(cluster.wanted.values()) > sum(wanted.values())
    arrived = _arrivals(written[6:])
    assert arrived == 8 * 5 * BUSY_PER_S, "demand of the rounds that failed is decided on later"
    assert _decisions(provisioner) == before + 4, "the log holds what was carried out, and decides it again"


async def test_a_provisioner_comes_up_on_a_full_disk_and_acts_when_there_is_room(provisioner, monkeypatch):
    await provisioner.rounds(4, rate_per_s=2.0)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(journal_module.Journal, "_begin", full)
        provisioner.start()
        with pytest.raises(OSError, match="No space"):
            await provisioner.rounds(1)
    await provisioner.rounds(2)
    assert _decisions(provisioner) == 6


async def test_a_full_disk_while_the_log_is_cut_loses_no_history(provisioner):
    await provisioner.rounds(3, rate_per_s=2.0)
    journal = provisioner.journal
    journal._records = journal._records_max
    header, journal._header = journal._header, None  # what cannot be written
    with pytest.raises(TypeError):
        await provisioner.rounds(1)
    journal._header = header
    assert _decisions(provisioner) == 3
    await provisioner.rounds(1)
    old = (provisioner.folder / LOG_NAME).with_suffix(".1.jsonl")
    with old.open(encoding="utf-8") as lines:
        assert len(list(redecide_log(lines))) == 3
    assert _decisions(provisioner) == 1


@pytest.mark.parametrize("content", ["", "{", '{"series": 3}', "null", "\x00\x00"])
async def test_state_that_cannot_be_read_begins_anew(provisioner, cluster, caplog, content):
    await provisioner.rounds(4, rate_per_s=BUSY_PER_S)
    (provisioner.folder / STATE_NAME).write_text(content)
    with caplog.at_level(logging.WARNING, "tidemill.provisioner"):
        provisioner.start()
    assert "cannot be read, beginning anew" in caplog.text
    wanted = sum(cluster.wanted.values())
    await provisioner.rounds(2)
    assert sum(cluster.wanted.values()) >= wanted, "a fleet at work is not taken for one without demand"
    assert _decisions(provisioner) == 5, "the first round only looked"


async def test_what_was_learnt_of_the_hardware_outlives_the_provisioner(provisioner, caplog):
    await provisioner.rounds(12, rate_per_s=BUSY_PER_S)
    learnt = provisioner.loop._observer.learnt()
    assert learnt["h100"].estimate.samples > 5
    provisioner.start()
    assert provisioner.loop._observer.learnt() == learnt
    (provisioner.folder / LEARNT_NAME).write_text("[]")
    with caplog.at_level(logging.WARNING, "tidemill.provisioner"):
        provisioner.start()
    assert "learning anew" in caplog.text
    assert provisioner.loop._observer.learnt()["h100"].estimate.samples == 0


# Restarts


async def test_a_successor_decides_as_its_predecessor_would_have(provisioner, cluster):
    await provisioner.rounds(12, rate_per_s=BUSY_PER_S)
    predecessor = provisioner.loop
    provisioner.start()
    assert provisioner.loop._state == predecessor._state
    cluster.advance()
    overview, serve = await cluster.overview(), await cluster.pools(["h100", "a100"])
    seen = predecessor._observer.look(overview, serve, now_s=cluster.now_s).snapshot
    policy, config = predecessor._policy, cluster.config
    assert policy(seen, provisioner.loop._state, config) == policy(seen, predecessor._state, config)
    went_on = {target.pool: target.replicas for target in policy(seen, predecessor._state, config).plan.pools}
    await provisioner.loop.round(cluster.now_s)
    assert provisioner.targets == went_on, "also with what the successor sees, who missed some demand"
    assert len(cluster.told("scale")) == len(set(cluster.told("scale"))), "nothing was done again"
    assert _decisions(provisioner) == 13


# Hardware


async def test_hardware_that_is_not_there_is_replaced_by_another_kind(provisioner, cluster):
    await provisioner.rounds(25, rate_per_s=2.0)
    assert cluster.wanted == {"h100": 0, "a100": 1}
    cluster.placeable["h100"] = 0
    await provisioner.rounds(3, rate_per_s=60.0)
    assert cluster.wanted["h100"] > 0
    others = cluster.wanted["a100"]
    for _ in range(8):
        await provisioner.rounds(1)
        if Reason.UNPLACEABLE in provisioner.reasons["h100"]:
            break
    assert Reason.UNPLACEABLE in provisioner.reasons["h100"]
    assert cluster.wanted["h100"] == 0, "nothing waits for it any more"
    assert cluster.wanted["a100"] > others
    assert cluster.bundles == provisioner.a100 * cluster.wanted["a100"], "and Ray is asked for what there is"


async def test_the_wait_for_hardware_outlives_the_provisioner(provisioner, cluster):
    """Every round another life: Serve says since when replicas wait."""
    await provisioner.rounds(25, rate_per_s=2.0)
    cluster.placeable["h100"] = 0
    for _ in range(16):
        await provisioner.rounds(2, rate_per_s=60.0)
        found = provisioner.reasons["h100"]
        provisioner.start()
        if Reason.UNPLACEABLE in found:
            break
    assert Reason.UNPLACEABLE in found


# What must never happen


async def test_a_paused_provisioner_never_acts(provisioner, cluster):
    provisioner.loop.paused = True
    for rate_per_s in (2.0, BUSY_PER_S, 0.0):
        await provisioner.rounds(15, rate_per_s=rate_per_s)
    assert cluster.told("scale") == []
    assert len(cluster.published) == 45, "it goes on showing what it would do"
    assert not (provisioner.folder / LOG_NAME).exists()
    provisioner.loop.paused = False
    await provisioner.rounds(4, rate_per_s=BUSY_PER_S)
    assert cluster.told("scale")


@pytest.mark.parametrize("behind_s", [300.0, -300.0])
async def test_nodes_whose_clocks_are_wrong_shrink_like_others(provisioner, cluster, behind_s):
    cluster.behind_s = behind_s
    await provisioner.rounds(12, rate_per_s=BUSY_PER_S)
    wanted = sum(cluster.wanted.values())
    assert wanted > 1
    await provisioner.rounds(30, rate_per_s=0.0)
    assert sum(cluster.wanted.values()) < wanted
    now_s = cluster.now_s
    assert {pool.reported_at_s for pool in provisioner.loop.last.pools} <= {now_s, None}
    started = [replica.since_s for pool in provisioner.loop.last.pools for replica in pool.replicas]
    assert all(since_s <= now_s for since_s in started)


@pytest.mark.parametrize("behind_s", [0.0, -300.0])
async def test_stale_reports_never_shrink_the_fleet(provisioner, cluster, behind_s):
    cluster.behind_s = behind_s
    await provisioner.rounds(12, rate_per_s=BUSY_PER_S)
    wanted = dict(cluster.wanted)
    assert sum(wanted.values()) > 1
    cluster.reported_at_s = cluster.now_s
    await provisioner.rounds(2)
    cluster.calls.clear()
    for _ in range(30):
        await provisioner.rounds(1, rate_per_s=0.0)
        assert all(cluster.wanted[name] >= count for name, count in wanted.items()), cluster.now_s
    cluster.reported_at_s = None
    await provisioner.rounds(30)
    assert sum(cluster.wanted.values()) < sum(wanted.values()), "fresh ones do"


async def test_the_first_look_of_a_first_life_takes_nothing_away(cluster, provisioner):
    """It knows nothing of the demand: neither from before nor from memory."""
    cluster.rate_per_s = BUSY_PER_S
    cluster.advance()
    assert await provisioner.loop.round(cluster.now_s) is None
    assert cluster.wanted == {"h100": 1, "a100": 0}
    assert not cluster.published
    cluster.advance()
    await provisioner.loop.round(cluster.now_s)
    assert cluster.wanted["h100"] > 1
