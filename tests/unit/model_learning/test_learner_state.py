"""Every outcome and every judgement counts once, feedback has its window, and nothing grows without end."""

from dataclasses import replace

import pytest

from cluster.entities.model_routing import FeedbackSource, ModelOutcome, ModelSignals
from deployments.model_learning.state import Feedback, FeedbackResult, LearnerState


class Remembering:
    """A policy that learns by heart, so that tests see what it was told."""

    name = "remembering"

    def initial(self):
        return ()

    def learn(self, state, outcome, *, now_s):
        return (*state, (outcome.decision_id, outcome.quality, outcome.source, outcome.counted, now_s))


def outcome(number, *, at_s=1000.0):
    return ModelOutcome(
        decision_id=f"d-{number}",
        model="a",
        signals=ModelSignals(tenant="t", embedding=(0.6, 0.8)),
        propensity=0.5,
        cost_usd=0.01,
        at_s=at_s,
    )


def judged(number, reward, *, source=FeedbackSource.CALLER, signal="", at_s=1001.0):
    return Feedback(decision_id=f"d-{number}", reward=reward, source=source, signal=signal, at_s=at_s)


def learner(*, pending_max=10, window_s=60.0):
    return LearnerState(Remembering(), pending_max=pending_max, window_s=window_s)


def test_an_outcome_teaches_what_it_took_and_feedback_only_its_quality():
    known = learner()
    assert known.apply(outcome(1)) is FeedbackResult.COUNTED
    assert known.apply(judged(1, 0.75)) is FeedbackResult.COUNTED
    assert known.state == (
        ("d-1", None, None, False, 1000.0),
        ("d-1", 0.75, FeedbackSource.CALLER, True, 1001.0),
    )
    assert known.version == 2


def test_the_same_twice_counts_once_and_another_reward_is_refused():
    known = learner()
    known.apply(outcome(1))
    known.apply(judged(1, 0.75))
    before = known.state, known.version
    assert known.apply(outcome(1)) is FeedbackResult.REPEATED
    assert known.apply(judged(1, 0.75, at_s=1010.0)) is FeedbackResult.REPEATED
    assert known.apply(judged(1, 0.5)) is FeedbackResult.CONFLICTING
    assert (known.state, known.version) == before


def test_every_source_and_every_automatic_signal_counts_for_itself():
    known = learner()
    known.apply(outcome(1))
    automatic = FeedbackSource.AUTOMATIC
    events = [
        judged(1, 1.0),
        judged(1, 0.2, source=FeedbackSource.JUDGE),
        judged(1, 0.5, source=automatic, signal="retry"),
        judged(1, 0.0, source=automatic, signal="format"),
    ]
    assert [known.apply(event) for event in events] == [FeedbackResult.COUNTED] * 4
    assert known.apply(events[2]) is FeedbackResult.REPEATED


def test_feedback_on_what_is_unknown_or_over_teaches_nothing():
    known = learner(window_s=60.0)
    known.apply(outcome(1))
    assert known.apply(judged(2, 1.0)) is FeedbackResult.UNKNOWN
    assert known.apply(judged(1, 1.0, at_s=1060.1)) is FeedbackResult.UNKNOWN
    assert known.apply(judged(1, 1.0, at_s=1060.0)) is FeedbackResult.COUNTED


def test_the_oldest_decisions_make_room_by_number():
    known = learner(pending_max=3, window_s=60.0)
    for number in range(5):
        known.apply(outcome(number))
    assert [entry.outcome.decision_id for entry in known.pending] == ["d-2", "d-3", "d-4"]


def test_a_router_whose_clock_is_ahead_makes_nobody_forget():
    known = learner(window_s=60.0)
    known.apply(outcome(1))
    known.apply(outcome(2, at_s=90_000.0))
    assert known.apply(judged(1, 1.0)) is FeedbackResult.COUNTED
    assert known.apply(judged(2, 1.0)) is FeedbackResult.COUNTED, "nor does a clock that is set back"


@pytest.mark.parametrize("field", ["cost_usd", "energy_j", "ttft_s", "latency_s", "predicted_energy_j"])
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_is_no_number_teaches_nothing(field, number):
    known = learner()
    assert known.apply(replace(outcome(1), **{field: number})) is FeedbackResult.DAMAGED
    known.apply(outcome(2))
    assert known.apply(judged(2, number)) is FeedbackResult.DAMAGED
    assert [told[0] for told in known.state] == ["d-2"]


class Stumbling(Remembering):
    """Cannot take the first outcome."""

    def learn(self, state, outcome, *, now_s):
        if outcome.decision_id == "d-1":
            raise ValueError("features of another number")
        return super().learn(state, outcome, now_s=now_s)


def test_one_outcome_that_cannot_be_learnt_from_does_not_end_the_learning(caplog):
    known = LearnerState(Stumbling(), pending_max=10, window_s=60.0)
    known.apply(outcome(1))
    assert known.apply(outcome(1)) is FeedbackResult.REPEATED, "it is not tried for ever"
    known.apply(outcome(2))
    assert [told[0] for told in known.state] == ["d-2"]
    assert "d-1" in caplog.text


def test_what_is_kept_of_an_outcome_is_not_judged_twice():
    known = learner()
    known.apply(replace(outcome(1), quality=0.9, source=FeedbackSource.JUDGE))
    assert known.pending[0].outcome.quality is None


def test_an_answer_is_judged_by_whom_it_was_given_to():
    known = learner()
    known.apply(outcome(1))
    foreign = replace(judged(1, 0.0), tenant="u")
    assert known.apply(foreign) is FeedbackResult.UNKNOWN
    assert known.apply(replace(judged(1, 0.75), tenant="t")) is FeedbackResult.COUNTED
    assert known.apply(foreign) is FeedbackResult.UNKNOWN
    assert known.apply(replace(judged(1, 0.5, source=FeedbackSource.JUDGE), tenant=None)) is (
        FeedbackResult.COUNTED
    )
