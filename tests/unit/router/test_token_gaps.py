"""Gaps between pieces of a streamed answer, in the histogram's buckets."""

from cluster.metrics import requests
from deployments.router.metrics.token_gaps import TokenGaps


def gaps_of(*pieces):
    gaps = TokenGaps()
    for at_s, chunk in pieces:
        gaps.piece(chunk, at_s)
    return gaps


def test_each_gap_is_counted_once_and_buckets_add_up():
    gaps = gaps_of(
        (0.0, b"data: a\n\n"), (0.004, b"data: b\n\n"), (0.504, b"data: c\n\n"), (9.0, b"data: d\n\n")
    )
    cumulative = dict(gaps.buckets())
    assert cumulative["0.0025"] == 0
    assert cumulative["0.005"] == 1
    assert cumulative["0.5"] == 2
    assert cumulative["2.5"] == 2
    assert cumulative["+Inf"] == 3
    assert gaps.sum_s == 9.0
    assert list(cumulative) == [*map(str, requests.ITL.buckets), "+Inf"]


def test_a_gap_as_long_as_a_bound_belongs_to_it():
    assert dict(gaps_of((0.0, b"a"), (0.25, b"b")).buckets())["0.2"] == 0
    assert dict(gaps_of((0.0, b"a"), (0.1, b"b")).buckets())["0.1"] == 1


def test_what_only_ends_the_answer_is_no_token():
    ends = (
        b"data: [DONE]\n\n",
        b'data: {"choices":[],"usage":{"prompt_tokens":1}}\n\n',
        b"event: message_stop\n\n",
    )
    gaps = gaps_of((0.0, b"data: a\n\n"), *((5.0, end) for end in ends), (0.01, b"data: b\n\n"))
    assert dict(gaps.buckets())["+Inf"] == 1
    assert gaps.sum_s == 0.01


def test_one_piece_has_no_gap_and_answers_add_up():
    total = TokenGaps()
    for answer in (
        gaps_of((0.0, b"a")),
        gaps_of((0.0, b"a"), (1.0, b"b")),
        gaps_of((3.0, b"a"), (5.0, b"b")),
    ):
        total.add(answer)
    assert dict(total.buckets())["+Inf"] == 2
    assert total.sum_s == 3.0
