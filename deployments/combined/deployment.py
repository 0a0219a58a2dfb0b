"""The combined deployment."""

from ray import serve

from deployments.engine.replica import EngineReplica


@serve.deployment
class Combined(EngineReplica):
    """Both phases in one engine: for models that are served without hand-over."""
