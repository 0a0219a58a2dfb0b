"""How much of the time loads may stop running streams: a bucket of seconds that fills with time."""

_ROUNDING_S = 1e-9


class StallBudget:
    """A token bucket that may go into debt for loads that somebody waits for."""

    def __init__(self, rate_s_per_s: float, *, debt_s: float, now_s: float, burst_s: float = 1.0) -> None:
        """Start with a second's worth.

        Args:
            rate_s_per_s: seconds of stall allowed per second.
            debt_s: how far below zero waited-for loads may go.
            now_s: a monotonic clock.
            burst_s: as many seconds of the rate may be saved up.
        """
        self._rate = rate_s_per_s
        self._debt_s = debt_s
        self._most_s = rate_s_per_s * burst_s
        self._level_s = self._most_s
        self._at_s = now_s

    def level_s(self, now_s: float) -> float:
        """Seconds of stall that may happen now; negative in debt."""
        self._level_s = min(self._most_s, self._level_s + self._rate * (now_s - self._at_s))
        self._at_s = now_s
        return self._level_s

    def spend(self, stall_s: float, now_s: float) -> None:
        """A load stopped running streams for so long."""
        self._level_s = self.level_s(now_s) - stall_s

    def wait_s(self, stall_s: float, now_s: float, *, urgent: bool) -> float:
        """How long a load that stalls for so long should wait; 0: not at all.

        A load larger than the bucket waits until the bucket is full.
        """
        floor_s = -self._debt_s if urgent else 0.0
        missing_s = min(stall_s, self._most_s) + floor_s - self.level_s(now_s)
        return missing_s / self._rate if missing_s > _ROUNDING_S else 0.0
