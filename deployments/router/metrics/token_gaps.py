"""Gaps between the pieces of streamed answers, counted into a histogram's buckets.

A counter of its own, because Prometheus' client would cost more for every token than relaying it does.
"""

from bisect import bisect_left

from cluster.metrics import requests

_BOUNDS_S = requests.ITL.buckets


class TokenGaps:
    """Those of one answer, or of many."""

    __slots__ = ("_last_at_s", "counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(_BOUNDS_S) + 1)
        """By bucket, not cumulative; the last one is above all bounds."""
        self.sum_s = 0.0
        self._last_at_s: float | None = None

    def piece(self, chunk: bytes, now_s: float) -> None:
        """Something came of an answer; what only says that it is over is no token."""
        # Written out, because this is done for every token.
        if b"[DONE]" in chunk or b'"usage":{' in chunk or b"event: message_stop" in chunk:
            return
        last_at_s, self._last_at_s = self._last_at_s, now_s
        if last_at_s is not None:
            gap_s = now_s - last_at_s
            self.counts[bisect_left(_BOUNDS_S, gap_s)] += 1
            self.sum_s += gap_s

    def add(self, other: "TokenGaps") -> None:
        """Take in another answer's."""
        for place, count in enumerate(other.counts):
            self.counts[place] += count
        self.sum_s += other.sum_s

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative, with their upper bounds, as Prometheus wants them."""
        found, running = [], 0
        for bound, count in zip([*map(str, _BOUNDS_S), "+Inf"], self.counts, strict=True):
            running += count
            found.append((bound, float(running)))
        return found
