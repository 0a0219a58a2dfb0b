"""The provisioning policies by name."""

from cluster.config.provisioning import PolicyName
from cluster.policy.provisioning import unit_commitment
from cluster.policy.provisioning.interface import ProvisioningPolicy

POLICIES: dict[PolicyName, ProvisioningPolicy] = {
    "unit_commitment": unit_commitment.decide,
}


def policy_named(name: PolicyName) -> ProvisioningPolicy:
    """The policy of a name.

    Raises:
        KeyError: no policy has the name.
    """
    return POLICIES[name]
