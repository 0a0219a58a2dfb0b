"""Both bounds hold exactly, and a rejected client is told when to come back."""

import math

import pytest

from cluster.config.gateway import GatewayConfig
from cluster.entities.reasons import Reason
from cluster.policy.admission import Verdict, admit, shed

CONFIG = GatewayConfig(max_concurrent_requests=10, max_queued_requests=25, queue_timeout_s=30.0)


@pytest.mark.parametrize(
    ("in_flight", "queued", "verdict", "reason"),
    [
        (0, 0, Verdict.ADMIT, Reason.ADMITTED),
        (9, 25, Verdict.ADMIT, Reason.ADMITTED),
        (10, 0, Verdict.QUEUE, Reason.QUEUED),
        (10, 24, Verdict.QUEUE, Reason.QUEUED),
        (10, 25, Verdict.REJECT, Reason.QUEUE_FULL),
        (99, 99, Verdict.REJECT, Reason.QUEUE_FULL),
    ],
)
def test_the_verdict_at_and_beside_each_bound(in_flight, queued, verdict, reason):
    admission = admit(in_flight=in_flight, queued=queued, config=CONFIG)
    assert (admission.verdict, admission.reason) == (verdict, reason)
    assert (admission.retry_after_s > 0) == (verdict is Verdict.REJECT)


def test_retry_after_grows_with_the_backlog_and_ends_at_the_queue_timeout():
    waits_s = [admit(in_flight=10, queued=n, config=CONFIG).retry_after_s for n in (25, 31, 100, 5000)]
    assert waits_s == [3, 4, 10, 30]


def test_a_router_without_a_queue_still_names_a_time():
    config = CONFIG.model_copy(update={"max_queued_requests": 0})
    admission = admit(in_flight=10, queued=0, config=config)
    assert (admission.verdict, admission.retry_after_s) == (Verdict.REJECT, 1)


def test_what_comes_too_late_is_shed_only_where_a_limit_is_set():
    assert shed(ttft_s=1e9, config=CONFIG).verdict is Verdict.ADMIT
    config = CONFIG.model_copy(update={"shed_ttft_s": 5.0})
    assert shed(ttft_s=5.0, config=config).verdict is Verdict.ADMIT
    late = shed(ttft_s=8.2, config=config)
    assert (late.verdict, late.reason, late.retry_after_s) == (Verdict.REJECT, Reason.TOO_LATE, 4)
    assert shed(ttft_s=math.inf, config=config).retry_after_s == math.ceil(config.queue_timeout_s)
