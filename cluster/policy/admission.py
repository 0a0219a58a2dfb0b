"""Whether a request is worked on now, waits, or is told to come back.

A queue without a bound turns overload into time-outs for everybody; a bound turns it into a clear answer for
the few that are too many.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

from cluster.config.gateway import GatewayConfig
from cluster.entities.reasons import Reason


class Verdict(StrEnum):
    """What happens to an arriving request."""

    ADMIT = "admit"
    QUEUE = "queue"
    REJECT = "reject"


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """The decision on one arriving request."""

    verdict: Verdict
    reason: Reason
    retry_after_s: int = 0
    """For the Retry-After header of a rejection: 1 or more; 0 for the other verdicts."""


def admit(*, in_flight: int, queued: int, config: GatewayConfig) -> Admission:
    """Decide on a request from what one router replica has at hand.

    Args:
        in_flight: requests it is working on.
        queued: requests that wait in it.
        config: the bounds of both.
    """
    if in_flight < config.max_concurrent_requests:
        return Admission(verdict=Verdict.ADMIT, reason=Reason.ADMITTED)
    if queued < config.max_queued_requests:
        return Admission(verdict=Verdict.QUEUE, reason=Reason.QUEUED)
    return Admission(
        verdict=Verdict.REJECT,
        reason=Reason.QUEUE_FULL,
        retry_after_s=_retry_after_s(queued, config),
    )


def shed(*, ttft_s: float, config: GatewayConfig) -> Admission:
    """Decide on a request that has found a replica, by the first token's predicted time there.

    Args:
        ttft_s: predicted time to first token on the best replica.
        config: the longest that is acceptable.
    """
    limit_s = config.shed_ttft_s
    if limit_s is None or ttft_s <= limit_s:
        return Admission(verdict=Verdict.ADMIT, reason=Reason.ADMITTED)
    # What is too much now is worked off at the rate at which it was predicted.
    wait_s = min(ttft_s - limit_s, config.queue_timeout_s)
    return Admission(verdict=Verdict.REJECT, reason=Reason.TOO_LATE, retry_after_s=max(1, math.ceil(wait_s)))


def _retry_after_s(queued: int, config: GatewayConfig) -> int:
    """One second for every full set of concurrent requests that is ahead.

    A coarse guess (nothing is known of the lengths yet) that grows with the backlog and never exceeds the
    time after which a queued request would itself be given up.
    """
    sets_ahead = math.ceil(queued / config.max_concurrent_requests)
    return max(1, min(sets_ahead, math.ceil(config.queue_timeout_s)))
