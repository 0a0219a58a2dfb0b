"""Signals of a request: complexity rises with what is asked for, hints are bounded, the text is not kept."""

from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.config.model_rules import ConditionConfig
from cluster.entities.model_routing import Goal
from cluster.policy.routing.models.categories import CategoryGuess
from cluster.policy.routing.models.complexity import complexity_of
from cluster.policy.routing.models.signals import HINT_CHARS_MAX, HINTS_MAX, hints_of, model_signals

SIMPLE = "Why are there two tides a day?"
HARD = (
    "A buoy of mass 12.5 kg floats in sea water of density 1025 kg/m^3. The tide rises by 3.2 m in 6.2 h. "
    "(a) Find the volume under water. (b) Find the work done on the buoy. (c) Show that the mean power is "
    "below 0.02 W, and state every assumption. (d) Repeat (a) to (c) for fresh water and compare the results."
)


def signals(**changed):
    fields = {
        "goal": Goal.CHEAP,
        "tenant": "t-1",
        "user_text": HARD,
        "turns": 3,
        "tools": True,
        "prompt_tokens": 120,
        "headers": {"x-tidemill-hint-tier": "gold"},
        "language": "en",
        "embedding": [0.6, 0.8],
        "category": CategoryGuess(category="physics", confidence=0.9),
    }
    return model_signals(**{**fields, **changed})


def test_every_part_arrives():
    made = signals()
    assert made.complexity == complexity_of(HARD)
    assert asdict(made) | {"complexity": 0} == {
        "goal": Goal.CHEAP,
        "tenant": "t-1",
        "category": "physics",
        "category_confidence": 0.9,
        "language": "en",
        "prompt_tokens": 120,
        "complexity": 0,
        "turns": 3,
        "tools": True,
        "hints": (("tier", "gold"),),
        "embedding": (0.6, 0.8),
    }


def test_the_text_is_not_kept():
    assert "buoy" not in repr(signals())


def test_nothing_is_known_without_an_embedding():
    made = signals(embedding=(), category=CategoryGuess())
    assert (made.category, made.category_confidence, made.embedding) == ("other", 0.0, ())


@given(st.text())
def test_complexity_is_a_share_of_any_text(text):
    assert 0.0 <= complexity_of(text) <= 1.0


def test_complexity_is_nothing_where_nothing_is_asked():
    assert complexity_of("") == complexity_of("   \n") == 0.0


def test_complexity_rises_with_each_of_its_parts():
    assert complexity_of(SIMPLE) < complexity_of(SIMPLE + " And why is one of them higher?")
    assert complexity_of(SIMPLE) < complexity_of(SIMPLE + " 1 2 3")
    assert complexity_of(SIMPLE) < complexity_of(SIMPLE + " (*)")
    assert complexity_of(HARD) > 0.5 > complexity_of(SIMPLE)


def test_complexity_of_a_translation_is_about_the_same():
    for text in (
        "Почему в сутки бывает два прилива?",
        "一天为什么有两次涨潮？",  # noqa: RUF001 - Chinese punctuation
        "なぜ一日に二回満潮があるのですか。",
        "دن میں دو بار مد کیوں آتا ہے؟",
        "Γιατί υπάρχουν δύο παλίρροιες την ημέρα;",
    ):
        assert complexity_of(text) == pytest.approx(complexity_of(SIMPLE), abs=0.06)


def test_complexity_reads_the_beginning_only():
    assert complexity_of("a" * 4096 + "1+1=2 " * 1000) == complexity_of("a" * 4096)


def test_hints_are_named_without_their_prefix_and_sorted():
    headers = {"x-tidemill-hint-b": " 2 ", "x-tidemill-hint-a": "1", "x-tidemill-cache": "on", "a": "b"}
    assert hints_of(headers) == (("a", "1"), ("b", "2"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("long", "v" * (HINT_CHARS_MAX + 1)),
        ("empty", "  "),
        ("tab", "a\tb"),
        ("umlaut", "schön"),
        ("", "v"),
        ("-x", "v"),
        ("x_y", "v"),
        ("n" * 64, "v"),
    ],
)
def test_what_is_no_hint_is_left_out(name, value):
    assert hints_of({f"x-tidemill-hint-{name}": value, "x-tidemill-hint-good": "v"}) == (("good", "v"),)


def test_hints_are_bounded_in_number():
    headers = {f"x-tidemill-hint-{number:03}": "v" for number in reversed(range(100))}
    assert [name for name, _ in hints_of(headers)] == [f"{number:03}" for number in range(HINTS_MAX)]


@given(st.dictionaries(st.text(max_size=80).map("x-tidemill-hint-".__add__), st.text(max_size=80)))
def test_every_hint_that_is_taken_could_be_named_by_a_rule(headers):
    for name, value in hints_of(headers):
        ConditionConfig(hints={name: (value,)})
