"""What one simulated engine has used and done."""

from cluster.entities.performance import PowerCurve
from cluster.entities.pool import EngineCounters
from cluster.performance.power import decode_w


class EngineMeter:
    """Energy as the integral of a power that changes at step boundaries, and the engine's counters."""

    __slots__ = (
        "_booked_j",
        "_by_batch_w",
        "_curve",
        "_since_s",
        "gap_s",
        "gaps",
        "output_tokens",
        "power_w",
        "prefill_s",
        "prefill_tokens",
    )

    def __init__(self, curve: PowerCurve, *, now_s: float) -> None:
        """An engine that is loaded and idle."""
        self._curve = curve
        self._by_batch_w = [curve.idle_w]
        self._booked_j = 0.0
        self._since_s = now_s
        self.power_w = curve.idle_w
        """What it draws now."""
        self.prefill_tokens = 0
        self.prefill_s = 0.0
        self.output_tokens = 0
        self.gaps = 0
        self.gap_s = 0.0

    def settle(self, now_s: float, power_w: float) -> None:
        """Book the energy up to now; from now on the engine draws something else."""
        self._booked_j += self.power_w * (now_s - self._since_s)
        self._since_s = now_s
        self.power_w = power_w

    def energy_j(self, now_s: float) -> float:
        """Energy since the engine became ready."""
        return self._booked_j + self.power_w * (now_s - self._since_s)

    def decode_w(self, sequences: int) -> float:
        """Power of decoding a batch, from a table that grows as needed."""
        table = self._by_batch_w
        while len(table) <= sequences:
            table.append(decode_w(self._curve, len(table)))
        return table[sequences]

    def decoded(self, sequences: int, steps: int, span_s: float) -> None:
        """Count steps in which every sequence got a token."""
        tokens = sequences * steps
        self.output_tokens += tokens
        self.gaps += tokens
        self.gap_s += sequences * span_s

    def counters(self) -> EngineCounters:
        """As a replica reports them, as of the last step boundary."""
        return EngineCounters(
            prefill_tokens=self.prefill_tokens,
            prefill_s=self.prefill_s,
            output_tokens=self.output_tokens,
            token_gaps=self.gaps,
            token_gaps_s=self.gap_s,
        )
