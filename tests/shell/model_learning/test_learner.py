"""The learner without Ray: batches, watchers, idempotence across batches, and its restart."""

import asyncio

import pytest

from cluster.config import parse_config
from cluster.entities.model_routing import FeedbackSource, ModelOutcome, ModelSignals
from deployments.model_learning import service
from deployments.model_learning.service import ModelLearner
from deployments.model_learning.state import Feedback, FeedbackResult

_CONFIG = """
models: {a: {source: simulated}, b: {source: simulated}}
pools: {p: {model: a, engine: {kind: simulated}}, q: {model: b, engine: {kind: simulated}}}
routing:
  models: {policy: linucb}
  learning: {journal_events_max: 10}
"""


def outcome(number):
    signals = ModelSignals(tenant="t", category="math")
    return ModelOutcome(
        decision_id=f"d-{number}", model="a", signals=signals, propensity=1.0, at_s=1000.0 + number
    )


def judged(number, reward, source=FeedbackSource.CALLER):
    return Feedback(decision_id=f"d-{number}", reward=reward, source=source, at_s=1001.0 + number)


@pytest.fixture
def start(tmp_path):
    """Starts learners, one after the other, on the same folder."""
    config = parse_config(_CONFIG)
    return lambda: ModelLearner(config, str(tmp_path))


async def test_a_signal_that_comes_with_its_decision_counts_and_a_batch_that_comes_again_does_not(start):
    learner = start()
    batch = [outcome(1), judged(1, 0.5, FeedbackSource.JUDGE), outcome(2), outcome(1)]
    await learner.take(batch)
    assert (await learner.watch(-1)).version == 3
    await learner.take(batch)
    assert (await learner.watch(-1)).version == 3
    assert await learner.judge(judged(1, 1.0)) is FeedbackResult.COUNTED
    assert await learner.judge(judged(1, 1.0)) is FeedbackResult.REPEATED
    assert await learner.judge(judged(7, 1.0)) is FeedbackResult.UNKNOWN


async def test_watchers_hear_at_once_of_what_is_new_and_after_a_while_that_nothing_is(start, monkeypatch):
    monkeypatch.setattr(service, "WATCH_TIMEOUT_S", 0.05)
    learner = start()
    quiet = await learner.watch(0)
    assert quiet.version == 0
    monkeypatch.setattr(service, "WATCH_TIMEOUT_S", 10.0)
    waiting = asyncio.create_task(learner.watch(0))
    await asyncio.sleep(0)
    await learner.take([outcome(1)])
    heard = await asyncio.wait_for(waiting, 1)
    assert (heard.version, heard.policy) == (1, "linucb")
    assert heard.state is not quiet.state


async def test_a_successor_knows_what_was_acknowledged_across_snapshots(start):
    first = start()
    for number in range(25):
        await first.take([outcome(number)])
        await first.judge(judged(number, (number % 5) / 4))
    before = await first.watch(-1)
    second = start()
    after = await second.watch(-1)
    assert after.version == before.version == 50
    encode = first._learner.policy.to_json
    assert encode(after.state) == encode(before.state)
    assert (await second.overview())["notes"] == []
    assert await second.judge(judged(3, 0.75)) is FeedbackResult.REPEATED


async def test_a_disk_that_is_full_stops_no_learning(start, monkeypatch, caplog):
    learner = start()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("deployments.model_learning.store.os.fsync", full)
    await learner.take([outcome(1)])
    assert await learner.judge(judged(1, 1.0)) is FeedbackResult.COUNTED
    assert (await learner.watch(-1)).version == 2
    assert "No space left" in caplog.text
