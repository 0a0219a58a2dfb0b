"""What the learner acknowledged it knows again after any death, from whatever its files still hold."""

import json

import pytest

from cluster.config.model_learning import ModelLearningConfig
from cluster.config.model_routing import ModelRoutingConfig
from cluster.entities.model_routing import FeedbackSource, ModelOutcome, ModelSignals
from cluster.policy.routing.models.categories import CATEGORIES
from cluster.policy.routing.models.policies import model_policy
from deployments.model_learning.state import Feedback, FeedbackResult, LearnerState
from deployments.model_learning.store import LearnerStore

CONFIG = ModelLearningConfig(journal_events_max=10, journals_max=4)


def outcome(number):
    return ModelOutcome(
        decision_id=f"d-{number}",
        model="ab"[number % 2],
        signals=ModelSignals(tenant="t", category="math", embedding=(0.6, 0.8)),
        propensity=0.5,
        energy_j=3.0 + number,
        at_s=1000.0 + number,
    )


def judged(number, reward):
    return Feedback(
        decision_id=f"d-{number}", reward=reward, source=FeedbackSource.CALLER, at_s=1000.5 + number
    )


def learner():
    routing = ModelRoutingConfig(policy="linucb")
    policy = model_policy(routing, ("a", "b"), categories=CATEGORIES)
    return LearnerState(policy, pending_max=100, window_s=3600.0)


def shown(known):
    """Everything that must be equal after a restart."""
    return known.version, known.policy.to_json(known.state), known.pending


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "model-routing"


def store_in(folder):
    return LearnerStore(folder, "linucb", CONFIG)


def lived(folder, *, events=7, saves=()):
    """A learner that took events, two a decision, and saved after some of them; with its store."""
    known, store = learner(), store_in(folder)
    assert store.restore(known) == []
    for number in range(events):
        event = outcome(number // 2) if number % 2 == 0 else judged(number // 2, (number % 3) / 2)
        store.append([event])
        known.apply(event)
        if number in saves:
            store.save(known)
    return known


def restarted(folder):
    known = learner()
    return known, store_in(folder).restore(known)


def test_a_new_learner_knows_nothing_and_says_nothing(folder):
    known, notes = restarted(folder)
    assert (known.version, notes) == (0, [])
    assert not folder.exists()


@pytest.mark.parametrize("saves", [(), (3,), (1, 4), (1, 3, 5), (6,)])
def test_everything_is_known_again_wherever_the_snapshots_fell(folder, saves):
    before = lived(folder, saves=saves)
    after, notes = restarted(folder)
    assert notes == []
    assert shown(after) == shown(before)


def test_feedback_on_a_decision_before_the_restart_still_counts_once(folder):
    lived(folder, events=3, saves=(2,))
    after, _ = restarted(folder)
    assert after.apply(judged(0, 0.5)) is FeedbackResult.REPEATED
    assert after.apply(judged(1, 1.0)) is FeedbackResult.COUNTED


def test_a_torn_last_line_was_not_acknowledged_and_is_cut(folder):
    lived(folder, events=4)
    journal = folder / "linucb.jsonl"
    with journal.open("ab") as file:
        file.write(b'{"sequence":5,"outcome":{"decision_id":"d-')
    known, store = learner(), store_in(folder)
    notes = store.restore(known)
    assert len(notes) == 1
    assert "not acknowledged" in notes[0]
    event = outcome(2)
    store.append([event])
    known.apply(event)
    after, notes = restarted(folder)
    assert notes == []
    assert shown(after) == shown(known)


@pytest.mark.parametrize("damage", ["torn", "flipped", "empty", "gone"])
def test_a_snapshot_that_is_not_whole_is_replaced_by_the_one_before_and_both_journals(folder, damage):
    before = lived(folder, events=9, saves=(2, 5))
    path = folder / "linucb.json"
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        flipped = content[:200] + bytes([content[200] ^ 1]) + content[201:]
        path.write_bytes({"torn": content[: len(content) // 2], "flipped": flipped, "empty": b""}[damage])
    after, notes = restarted(folder)
    assert shown(after) == shown(before)
    assert len(notes) == (damage != "gone")


def test_without_any_whole_snapshot_it_learns_anew_and_says_what_is_missing(folder):
    lived(folder, events=12, saves=(2, 5, 8))
    for name in ("linucb.json", "linucb.1.json"):
        (folder / name).write_bytes(b"nonsense")
    after, notes = restarted(folder)
    assert sum("cannot be used" in note for note in notes) == 2
    assert after.version > 0, "the journals that are left are learnt from"


def test_a_death_between_the_renames_of_a_save_loses_nothing(folder):
    before = lived(folder, events=6, saves=(2,))
    # As `save` leaves it if the process dies after the journals were moved.
    (folder / "linucb.jsonl").rename(folder / "linucb.1.jsonl")
    after, notes = restarted(folder)
    assert notes == []
    assert shown(after) == shown(before)


def test_another_policy_s_snapshot_is_not_taken(folder):
    lived(folder, events=3, saves=(2,))
    content = (folder / "linucb.json").read_bytes()
    (folder / "thompson.json").write_bytes(content)
    policy = model_policy(ModelRoutingConfig(policy="thompson"), ("a", "b"), categories=CATEGORIES)
    known = LearnerState(policy, pending_max=10, window_s=60.0)
    notes = LearnerStore(folder, "thompson", CONFIG).restore(known)
    assert len(notes) == 1
    assert "policy linucb" in notes[0]
    assert known.version == 0


def test_journals_are_bounded_and_older_ones_kept_for_evaluation(folder):
    lived(folder, events=14, saves=(1, 3, 5, 7, 9, 11))
    names = sorted(path.name for path in folder.glob("*.jsonl"))
    assert names == ["linucb.1.jsonl", "linucb.2.jsonl", "linucb.3.jsonl", "linucb.jsonl"]
    lines = [json.loads(line) for line in (folder / "linucb.1.jsonl").read_text().splitlines()]
    assert [line["sequence"] for line in lines] == [11, 12]


def test_a_full_disk_leaves_the_old_files_as_they_were(folder, monkeypatch):
    before = lived(folder, events=4, saves=(1,))
    store = store_in(folder)
    store.restore(learner())

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("deployments.model_learning.store.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        store.append([outcome(5)])
    with pytest.raises(OSError, match="No space"):
        store.save(before)
    monkeypatch.undo()
    store.append([outcome(6)])
    before.apply(outcome(6))
    after, notes = restarted(folder)
    assert notes == []
    assert shown(after) == shown(before), "of the event that failed nothing is left"


def test_a_journal_is_full_after_so_many_events_and_fresh_after_a_save(folder):
    known, store = learner(), store_in(folder)
    store.append([outcome(number) for number in range(9)])
    assert not store.is_full
    store.append([outcome(9)])
    assert store.is_full
    store.save(known)
    assert not store.is_full
    again = store_in(folder)
    again.restore(learner())
    assert not again.is_full
