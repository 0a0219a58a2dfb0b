"""The latency definitions that everything else reports."""

import pytest

from cluster.entities.timeline import Timeline


def test_the_definitions():
    timeline = Timeline(
        arrived_at_s=10.0, dispatched_at_s=10.1, first_token_at_s=10.5, ended_at_s=12.5, output_tokens=21
    )
    assert timeline.ttft_s == pytest.approx(0.5)
    assert timeline.e2e_s == pytest.approx(2.5)
    assert timeline.tpot_s == pytest.approx(0.1)


def test_one_token_has_no_time_between_tokens():
    timeline = Timeline(arrived_at_s=0.0, first_token_at_s=1.0, ended_at_s=1.5, output_tokens=1)
    assert timeline.tpot_s == 0.0


def test_what_has_not_happened_has_no_latency():
    timeline = Timeline(arrived_at_s=0.0)
    assert (timeline.ttft_s, timeline.e2e_s, timeline.tpot_s) == (None, None, None)
