"""Invariants of the small policies.

1. Backoff: a failed replica is put aside for between three quarters of the first and five quarters of the
   longest time, and a further failure never brings it back sooner.
2. Admission: work and queue never exceed their bounds, and nothing is rejected while there is room.
3. Token estimates: at least 1 for any text, growing with it, with a ratio that stays within its bounds.
"""

from hypothesis import given
from hypothesis import strategies as st

from cluster.config.gateway import GatewayConfig
from cluster.config.routing import ReplicaRoutingConfig
from cluster.policy.admission import Verdict, admit
from cluster.policy.routing.replicas.health import ReplicaHealth, after_failure
from cluster.policy.token_estimate import TokenRatio, estimate_tokens, learn

DRAWS = st.floats(0, 1, exclude_max=True)
COUNTS = st.integers(0, 100_000)


@given(
    st.floats(0.01, 10),
    st.floats(10, 1000),
    st.lists(st.tuples(st.floats(0, 100), DRAWS), min_size=1, max_size=40),
)
def test_backoff_is_bounded_and_never_shortened(first_s, max_s, failures):
    config = ReplicaRoutingConfig(put_aside_first_s=first_s, put_aside_max_s=max_s)
    health, now_s = ReplicaHealth(), 0.0
    for pause_s, draw in failures:
        now_s += pause_s
        before = health
        health = after_failure(health, config, now_s=now_s, draw=draw)
        aside_s = health.put_aside_until_s - now_s
        assert 0 < aside_s <= 1.25 * max_s * (1 + 1e-9)
        assert health.put_aside_until_s >= before.put_aside_until_s
        if health.failures > before.failures:
            assert aside_s >= 0.75 * first_s * (1 - 1e-6)


@given(COUNTS, COUNTS, st.integers(1, 1000), st.integers(0, 1000))
def test_admission_keeps_both_bounds_and_wastes_no_room(in_flight, queued, concurrent_max, queued_max):
    config = GatewayConfig(max_concurrent_requests=concurrent_max, max_queued_requests=queued_max)
    admission = admit(in_flight=in_flight, queued=queued, config=config)
    if admission.verdict is Verdict.ADMIT:
        assert in_flight + 1 <= concurrent_max
    elif admission.verdict is Verdict.QUEUE:
        assert in_flight >= concurrent_max
        assert queued + 1 <= queued_max
    else:
        assert in_flight >= concurrent_max
        assert queued >= queued_max
        assert 1 <= admission.retry_after_s <= config.queue_timeout_s


@given(st.lists(st.tuples(COUNTS, COUNTS), max_size=50), st.integers(1, 10**7), COUNTS)
def test_token_estimates_stay_sane(observed, size, more):
    ratio = TokenRatio()
    for prompt_bytes, prompt_tokens in observed:
        ratio = learn(ratio, prompt_bytes=prompt_bytes, prompt_tokens=prompt_tokens)
        assert 0.05 <= ratio.tokens_per_byte <= 2.0
    assert 1 <= estimate_tokens(ratio, size) <= estimate_tokens(ratio, size + more)
