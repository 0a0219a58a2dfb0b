"""The estimate starts at four bytes a token and follows what the engines count."""

import pytest

from cluster.policy.token_estimate import TokenRatio, estimate_tokens, learn


def test_the_first_guess_is_four_bytes_a_token_rounded_up():
    ratio = TokenRatio()
    assert [estimate_tokens(ratio, size) for size in (0, 1, 4, 5, 4000)] == [0, 1, 1, 2, 1000]


def test_it_converges_to_what_is_observed():
    ratio = TokenRatio()
    for _ in range(200):
        ratio = learn(ratio, prompt_bytes=1000, prompt_tokens=500)
    assert ratio.tokens_per_byte == pytest.approx(0.5, rel=1e-3)
    assert ratio.observations == 200


def test_the_first_observations_weigh_more_than_the_later_ones():
    first = learn(TokenRatio(), prompt_bytes=1000, prompt_tokens=450)
    assert first.tokens_per_byte == pytest.approx(0.35)
    settled = TokenRatio(tokens_per_byte=0.25, observations=1000)
    assert learn(settled, prompt_bytes=1000, prompt_tokens=450).tokens_per_byte == pytest.approx(0.26)


@pytest.mark.parametrize(("tokens", "bound"), [(1, 0.05), (10**9, 2.0)])
def test_absurd_counts_cannot_push_the_ratio_out_of_its_bounds(tokens, bound):
    ratio = TokenRatio()
    for _ in range(500):
        ratio = learn(ratio, prompt_bytes=1000, prompt_tokens=tokens)
    assert ratio.tokens_per_byte == pytest.approx(bound, rel=1e-3)
    assert 0.05 <= ratio.tokens_per_byte <= 2.0


def test_one_absurd_count_weighs_no_more_than_the_largest_sensible_one():
    settled = TokenRatio(tokens_per_byte=0.25, observations=1000)
    absurd = learn(settled, prompt_bytes=10, prompt_tokens=10**6)
    assert absurd.tokens_per_byte == learn(settled, prompt_bytes=10, prompt_tokens=20).tokens_per_byte < 0.34


@pytest.mark.parametrize(("size", "tokens"), [(0, 5), (5, 0), (-1, 5)])
def test_nothing_is_learnt_from_nothing(size, tokens):
    assert learn(TokenRatio(), prompt_bytes=size, prompt_tokens=tokens) == TokenRatio()
