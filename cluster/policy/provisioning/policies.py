"""The provisioning policies by name."""

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


def policy_named(name: PolicyName) -> ProvisioningPolicy:
    """The policy of a name.

    Raises:
        KeyError: no policy has the name.
    """
    return POLICIES[name]
