"""What a router counts as demand."""

import pytest

from cluster.config import parse_config
from deployments.router.fleet.demand import RouterDemand

SIMULATED = "{kind: simulated, max_model_len: 8192}"


def counted(*engines, prompt_tokens):
    pools = "".join(f"  p{at}: {{model: m, engine: {engine}}}\n" for at, engine in enumerate(engines))
    demand = RouterDemand(parse_config(f"models:\n  m: {{source: s}}\npools:\n{pools}"), "router")
    demand.arrived("m", prompt_tokens)
    (found,) = demand.totals().classes
    assert found.arrivals == 1
    return found.prompt_tokens


@pytest.mark.parametrize(
    ("engines", "wanted"),
    [
        ((SIMULATED,), 8192),
        ((SIMULATED, "{kind: vllm, args: {max_model_len: 32768}}"), 32768),
        ((SIMULATED, "{kind: vllm}"), 500_000),
    ],
)
def test_a_prompt_that_every_engine_refuses_counts_no_more_than_the_longest_they_take(engines, wanted):
    """One of half a million tokens, refused with 400, had all pools brought to their maximum."""
    assert counted(*engines, prompt_tokens=500_000) == wanted
    assert counted(*engines, prompt_tokens=700) == 700
