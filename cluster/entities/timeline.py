"""When things happened to a request, and the latencies that follow from it.

TTFT = first token - arrival. TPOT = (e2e - TTFT) / (output_tokens - 1), 0 for one token. ITL = each gap
between tokens. These are the definitions that serving benchmarks use (docs/glossary.md).
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """Instants of one request in seconds of one clock; None where it has not come to that."""

    arrived_at_s: float
    dispatched_at_s: float | None = None
    first_token_at_s: float | None = None
    ended_at_s: float | None = None
    output_tokens: int = 0

    @property
    def ttft_s(self) -> float | None:
        """Time to first token."""
        return None if self.first_token_at_s is None else self.first_token_at_s - self.arrived_at_s

    @property
    def e2e_s(self) -> float | None:
        """From arrival to the last byte."""
        return None if self.ended_at_s is None else self.ended_at_s - self.arrived_at_s

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first."""
        if self.ttft_s is None or self.e2e_s is None:
            return None
        if self.output_tokens <= 1:
            return 0.0
        return (self.e2e_s - self.ttft_s) / (self.output_tokens - 1)
