"""Both kinds of questions are asked equally often, and rows say how many answers were right."""

from collections import Counter

from load_tests.two_models import Answered, _options, questions, row


def test_sums_and_facts_in_turn_and_no_sum_twice_by_order():
    asked = list(questions(3, 25))
    assert Counter(kind for kind, _ in asked) == {"sums": 25, "facts": 25}
    assert [kind for kind, _ in asked[:4]] == ["sums", "facts", "sums", "facts"]
    assert asked == list(questions(3, 25))


def test_a_row_has_the_share_of_right_answers():
    given = [Answered("sums", "m", right, 3, "d-1") for right in (True, True, True, False)]
    assert row("sums", "m", 7, given, to_m_ratio=1.0) == {
        "case": "sums",
        "policy": "m",
        "seed": 7,
        "requests": 4,
        "right_ratio": 0.75,
        "output_tokens_mean": 3.0,
        "to_m_ratio": 1.0,
    }


def test_options_have_bounds():
    assert _options([]).questions == 100
    assert _options(["--questions", "8", "--json"]).json
