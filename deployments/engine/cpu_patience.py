"""Lets vLLM's processes sleep while they wait for each other.

vLLM's scheduler process and its worker talk through shared memory, and the one that waits spins for a second
after every message before it sleeps. On a GPU machine that saves microseconds; on a CPU it takes the core
that something else computes on, often the other engine: one stream kept two cores busy, and the replica's
own HTTP server answered seconds late. The writer also notifies over a socket, so the reader may as well
sleep on that from the beginning; short naps, because a notification can be lost and vLLM would then look
again only after 5 s.

Only loaded inside vLLM's processes: `PatientExecutor` (`--distributed-executor-backend`) in the scheduler's,
the worker extensions in the worker's.
"""

from vllm.distributed.device_communicators.shm_broadcast import SpinCondition
from vllm.v1.executor.multiproc_executor import MultiprocExecutor

NAP_MS = 2
"""Longest sleep between two looks at the shared memory: what a lost notification costs."""

_wait = SpinCondition.wait


def _forget(_condition: SpinCondition) -> None:
    """In place of noting when something was last read, which is what starts a second of spinning."""


def _nap(condition: SpinCondition, timeout_ms: int | None = None) -> None:
    """Wait as before, but not for long; the callers look again and keep the time themselves."""
    _wait(condition, NAP_MS if timeout_ms is None else min(timeout_ms, NAP_MS))


SpinCondition.record_read = _forget
SpinCondition.wait = _nap


class PatientExecutor(MultiprocExecutor):  # type: ignore[misc]  # vllm is not typed for us
    """vLLM's multiprocess executor; importing its module is what makes the difference."""
