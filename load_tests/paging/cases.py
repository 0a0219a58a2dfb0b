"""The situations and the settings that the adapter-paging benchmark compares.

Settings were chosen on seeds from 100 on, for the sum of regrets of the first three cases; results are for
seeds from 0 on.
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

from cluster.config.paging import AdapterRouterName, PagingConfig, PagingPolicyName
from load_tests.paging.world import Case

POLICIES: tuple[PagingPolicyName, ...] = get_args(PagingPolicyName)
ROUTERS: tuple[AdapterRouterName, ...] = get_args(AdapterRouterName)

_RHO = MappingProxyType(
    {"lru": 0.5, "lfu": 0.3, "gdsf": 0.5, "ftpl": 0.5, "polar": 0.5, "polar_plus": 0.5, "hybrid": 1.3}
)
_OWN_ROUTER: MappingProxyType[str, AdapterRouterName] = MappingProxyType({"polar": "aware"})
"""The router a policy did best with on the tuning seeds; `amortised` where nothing is said."""

Entries = Literal["own", "routers", "slopes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A policy with a router."""

    policy: PagingPolicyName
    router: AdapterRouterName

    def config(self, case: Case) -> PagingConfig:
        """With what was chosen on the tuning seeds."""
        return PagingConfig(
            policy=self.policy, router=self.router, rho=_RHO[self.policy], dimension=case.dimension
        )


def entries(kind: Entries, policies: tuple[PagingPolicyName, ...]) -> list[Entry]:
    """Every policy with its own router and vLLM's way, or with every router, or the few for slopes."""
    if kind == "routers":
        return [Entry(policy=policy, router=router) for policy in policies for router in ROUTERS]
    own = [Entry(policy=policy, router=_OWN_ROUTER.get(policy, "amortised")) for policy in policies]
    if kind == "slopes":
        return [entry for entry in own if entry.policy in {"lru", "polar", "hybrid"}]
    today = [Entry(policy="lru", router="oblivious")] if "lru" in policies else []
    return [*today, *own]


def _cases() -> dict[Case, Entries]:
    short = 3000
    found: dict[Case, Entries] = {
        Case(name="stationary_c0.3", requests=12_000): "own",
        Case(name="shifts_c0.3", requests=12_000, shape="shifts"): "own",
        Case(name="stationary_c0.8", requests=12_000, price=0.8): "own",
    }
    own = [
        Case(name="stationary_c0.1", requests=short, price=0.1),
        Case(name="shifts_c0.1", requests=short, price=0.1, shape="shifts"),
        Case(name="shifts_c0.8", requests=short, price=0.8, shape="shifts"),
        Case(name="diurnal", requests=short, shape="diurnal"),
        Case(name="flash_crowd", requests=short, shape="flash_crowd"),
        Case(name="new_adapters", requests=short, shape="new_adapters"),
        Case(name="cycle", requests=short, shape="cycle"),
        Case(name="zipf0.6", requests=short, zipf=0.6),
        Case(name="zipf1.4", requests=short, zipf=1.4),
        Case(name="noise0.3", requests=short, noise=0.3),
        Case(name="delay300", requests=short, feedback_delay_requests=300),
        Case(name="feedback20%", requests=short, feedback_share=0.2),
        Case(name="feedback5%", requests=short, feedback_share=0.05),
        Case(name="named30%", requests=short, named_share=0.3),
        Case(name="named100%", requests=short, named_share=1.0),
        Case(name="n50_k8", requests=short, adapters=50, planned_slots=8, dimension=32),
        Case(name="n200_k16", requests=short, adapters=200, planned_slots=16, dimension=32),
    ]
    found |= dict.fromkeys(own, "own")
    for case in list(found)[:3]:
        shorter = Case(name=f"routers_{case.name}", requests=short, shape=case.shape, price=case.price)
        found[shorter] = "routers"
    for adapters, slots in ((15, 4), (30, 4), (60, 4), (30, 2), (30, 8)):
        name = f"slope_n{adapters}_k{slots}"
        found[Case(name=name, requests=short, adapters=adapters, planned_slots=slots)] = "slopes"
    return found


CASES = MappingProxyType({case.name: (case, kind) for case, kind in _cases().items()})
