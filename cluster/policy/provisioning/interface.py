"""What every provisioning policy is: a function of what is seen, remembered and configured."""

from typing import Protocol

from cluster.config.root import TidemillConfig
from cluster.entities.fleet import FleetDecision, FleetSnapshot, ProvisionerState


class ProvisioningPolicy(Protocol):
    """Decides how many replicas each pool is to have."""

    def __call__(
        self, snapshot: FleetSnapshot, state: ProvisionerState, config: TidemillConfig
    ) -> FleetDecision:
        """Decide.

        Pure and total: equal arguments give equal decisions (but for one that says `solver_stopped`), and
        every snapshot gets one. The plan names
        every pool of the snapshot, in its order, within the pool's bounds.

        Args:
            snapshot: what is seen now.
            state: what the last decision left to remember.
            config: the configuration in force.
        """
        ...
