"""How routers and the coordinator keep up with the nodes that page adapters."""

from pydantic import Field

from cluster.config.base import Section


class AdapterFleetConfig(Section):
    """Adapters across all nodes: what routers learn of them, and what the coordinator does."""

    learned_period_s: float = Field(default=1.0, gt=0)
    """How often a router asks every node what it has learnt; requests never wait for it."""

    round_period_s: float = Field(default=2.0, gt=0)
    """How often the coordinator visits every node: catalogue, what it saw, what others saw, placement."""

    node_timeout_s: float = Field(default=5.0, gt=0)
    """A node that has not answered by then is visited again in the next round."""

    admin_timeout_s: float = Field(default=330.0, gt=0)
    """Adding an adapter is given up by the router after so long; it fetches the files, see
    `adapters.fetch_timeout_s`."""

    adapters_max: int = Field(default=1_000, ge=1)
    """Adapters in the catalogue; one more is refused."""

    contributions_max: int = Field(default=5_000, ge=1)
    """What nodes saw of adapters, one entry for each node and adapter, that the coordinator keeps; beyond it,
    those nodes are forgotten that have told nothing for the longest time."""

    load_half_life_s: float = Field(default=120.0, gt=0)
    """How fast the coordinator forgets what adapters were asked for, when it places copies."""

    candidates_logged_max: int = Field(default=16, ge=1)
    """Adapters that a decision record tells of, best first, where one was chosen among many."""
