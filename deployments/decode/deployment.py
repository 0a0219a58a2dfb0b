"""The decode deployment."""

from ray import serve

from deployments.engine.replica import EngineReplica


@serve.deployment
class Decode(EngineReplica):
    """Redeems KV tickets and streams tokens; computes short or already cached prompts itself."""
