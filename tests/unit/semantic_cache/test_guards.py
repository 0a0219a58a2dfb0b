"""What must not share an answer is told apart, and paraphrases are let through."""

import pytest

from cluster.policy.semantic_cache.guards import Guard, conflict, facts_of, stem
from tests.unit.semantic_cache.polarity_pairs import LANGUAGES, pairs

PAIRS = list(pairs())
PARAPHRASES = (
    ("How do I reset my password?", "What is the way to reset my password?"),
    ("How do I reset the password of my account?", "What is the way to reset my account password?"),
    ("How can I lose weight quickly?", "What is a fast way to lose weight?"),
    ("How do I enable 2FA?", "How do I turn on 2FA?"),
    ("what's the capital of france", "What is the capital of France?"),
    ("Tell me about the moons of Jupiter", "Describe the moons of Jupiter"),
    ("I have lost my card, what should I do?", "What should I do, my card is lost"),
    ("What are 3 good books on tides?", "Name three good books about tides"),
    ("Where can I find my invoices?", "where do i find my invoice"),
    ("delete my account please", "remove my account"),
)


def test_there_are_enough_pairs_of_enough_kinds():
    assert len(PAIRS) + len(LANGUAGES) >= 200
    assert len({kind for kind, _, _ in PAIRS}) + 1 >= 10


@pytest.mark.parametrize(("kind", "one", "other"), PAIRS)
def test_what_asks_for_something_else_is_refused_both_ways(kind, one, other):
    assert conflict(facts_of(one), facts_of(other)) is not None, kind
    assert conflict(facts_of(other), facts_of(one)) is not None, kind


@pytest.mark.parametrize(("language", "one", "other_language", "other"), LANGUAGES)
def test_languages_do_not_mix(language, one, other_language, other):
    facts = facts_of(one, language=language), facts_of(other, language=other_language)
    assert conflict(*facts) is Guard.LANGUAGE


@pytest.mark.parametrize(("one", "other"), PARAPHRASES)
def test_a_paraphrase_is_let_through_both_ways(one, other):
    assert conflict(facts_of(one), facts_of(other)) is None
    assert conflict(facts_of(other), facts_of(one)) is None


def test_what_the_encoder_does_not_read_must_be_equal():
    begin = "tides and moons " * 60
    assert conflict(facts_of(begin + "one"), facts_of(begin + "another")) is Guard.CONTENT
    assert conflict(facts_of(begin + "same"), facts_of(begin + "same")) is None


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("cards", "card"),
        ("cancelled", "cancel"),
        ("charging", "charg"),
        ("parties", "party"),
        ("pass", "pass"),
    ],
)
def test_forms_of_a_word_have_one_stem(word, expected):
    assert stem(word) == expected
