"""The prefill deployment."""

from ray import serve

from deployments.engine.replica import EngineReplica


@serve.deployment
class Prefill(EngineReplica):
    """Computes prompts (`max_tokens=1`) and keeps their KV blocks until the ticket is redeemed or lapses.

    As a last resort, when no decode replica is there, the router asks it for whole answers.
    """
