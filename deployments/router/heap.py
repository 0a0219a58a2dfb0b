"""Keeps Python's garbage collector from stopping the router.

The collector's oldest generation is walked whole whenever it has grown by a quarter. What was imported and
built before the first request (several hundred thousand objects that live as long as the process) is taken
out of that walk. Measured, it had stopped all streams for 80 to 190 ms at a time and cost a sixth of a
request's CPU time (docs/benchmarks.md). What requests leave behind is freed by counting references, cycles
apart, so young objects are looked through less often too.
"""

import gc

_THRESHOLDS = (5_000, 20, 50)
"""Allocations, then collections of the younger generation, before a generation is collected."""


def settle_heap() -> None:
    """Take everything that lives now out of the collector's sight; called once, when a process is ready."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
