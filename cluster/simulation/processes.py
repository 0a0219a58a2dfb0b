"""Worker processes that end with what they work for.

`ProcessPoolExecutor` by itself finishes everything that was handed in before it lets an interrupt or a
failure through, and its workers answer Ctrl-C with tracebacks.
"""

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def worker_processes(count: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of so many processes; if the body fails or is interrupted, they are ended at once."""
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(count, initializer=_leave_signals_to_parent)
    try:
        yield pool
    except BaseException:
        # Nothing is cancelled: Python 3.11's pool stumbles over cancelled work when its processes end.
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        raise
    finally:
        pool.shutdown()


def in_turn(
    pool: ProcessPoolExecutor, work: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[Result]:
    """As `pool.map`, which cancels when it is interrupted."""
    waiting = deque(pool.submit(work, item) for item in items)
    while waiting:
        yield waiting.popleft().result()


def _leave_signals_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What the parent does on a request to end is none of a worker's business.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
