"""The provisioning policies by name."""

import math
from functools import partial

from cluster.config.provisioning import PolicyName
from cluster.policy.provisioning import unit_commitment
from cluster.policy.provisioning.baselines import (
    interpolation,
    ongoing_requests,
    queue_length,
    static_peak,
    two_pool,
    utilisation,
)
from cluster.policy.provisioning.interface import ProvisioningPolicy

POLICIES: dict[PolicyName, ProvisioningPolicy] = {
    "unit_commitment": unit_commitment.decide,
    "static_peak": static_peak.decide,
    "ongoing_requests": ongoing_requests.decide,
    "utilisation": utilisation.decide,
    "queue_length": queue_length.decide,
    "interpolation": interpolation.decide,
    "two_pool": two_pool.decide,
}


def policy_named(name: PolicyName, *, solver_limit_s: float = math.inf) -> ProvisioningPolicy:
    """The policy of a name.

    Args:
        name: as in the configuration.
        solver_limit_s: for one decision, where a policy solves programs. Without it equal arguments give
            equal decisions; where time is real, an answer in time is worth more.

    Raises:
        KeyError: no policy has the name.
    """
    if name == "unit_commitment":
        return partial(unit_commitment.decide, solver_limit_s=solver_limit_s)
    return POLICIES[name]
