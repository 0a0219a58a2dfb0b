"""A stream that broke off, given to one replica after another until one has finished it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from cluster.entities.pool import ReplicaId
from cluster.entities.reasons import Reason
from cluster.entities.workload import RequestSignals
from deployments.router.core import RouterCore
from deployments.router.generation.grant import Grant, Grants
from deployments.router.generation.relay import Relay
from deployments.router.wire.errors import ApiError
from deployments.router.wire.upstream import ReplicaError

_BACK_OFF_S = 0.3


@dataclass(slots=True)
class Broken:
    """What is known of the failure."""

    failure: ReplicaError
    exclude: set[ReplicaId]
    """Replicas on which the request has failed."""
    reasons: list[Reason]
    """Of the request; added to."""


async def go_on(
    core: RouterCore,
    signals: RequestSignals,
    broken: Broken,
    *,
    relay: Callable[[], Relay | None],
    attempt: Callable[[Grant], Awaitable[ReplicaError | None]],
    anybody_left: Callable[[set[ReplicaId]], bool],
) -> None:
    """Let other replicas go on with a stream that has begun.

    Args:
        core: the router's services.
        signals: the request.
        broken: what is known of the failure.
        relay: the last one that sent something.
        attempt: tries one replica; the failure if another should be asked.
        anybody_left: whether a replica remains beside those.

    Raises:
        ApiError: none can, or those that tried failed too.
    """
    grants = Grants(core)
    why_not = ""
    for number in range(1, core.config.gateway.continuation.max_attempts + 1):
        last = relay()
        assert last is not None  # noqa: S101 - it has begun the stream
        seam, so_far = last.break_off(), last.so_far
        if so_far.finished:
            await last.close()
            return
        if seam is None:
            broken.reasons.append(Reason.NOT_CONTINUED)
            why_not = f" No other replica goes on with it ({so_far.refused})."
            break
        if number > 1:
            await asyncio.sleep(_BACK_OFF_S * number)
            if not anybody_left(broken.exclude):
                broken.exclude.clear()
        broken.reasons.append(Reason.CONTINUED)
        core.metrics.retry(Reason.CONTINUED)
        longer = replace(signals, prompt_tokens=so_far.prompt_tokens + seam.tokens)
        grant = await grants.take(longer, broken.exclude, may_split=False)
        failed = await attempt(grant)
        if failed is None:
            return
        broken.failure = failed
        broken.exclude.add(grant.view.replica_id)
        core.metrics.replica_failed(grant.view.pool)
    message = f"The engine failed in the middle of the answer: {broken.failure}.{why_not}"
    raise ApiError(status=502, message=message, code="engine_failed") from broken.failure
