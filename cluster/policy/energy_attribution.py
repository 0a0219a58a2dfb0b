"""Shares a replica's energy out among its requests, so that nothing is lost and nothing counted twice.

Over a window, energy above idle was caused by the tokens computed in it and is shared by them: an uncached
prompt token counts 1, an output token more (it is computed alone and not in a chunk). What the replica would
have drawn with nothing to do is shared equally among the requests that were there, by the time they were.
Energy of a window without requests belongs to nobody and is told as such.

Formula: E_active = E_counter − P_idle·Δt, w_i = c_p·uncached prefill tokens + c_d·decode tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from cluster.entities.energy import EnergyShare

KeyT = TypeVar("KeyT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribution(Generic[KeyT]):
    """Who used a window's energy."""

    shares: Mapping[KeyT, EnergyShare] = field(default_factory=dict)
    """By request."""
    unattributed_j: float = 0.0
    """Nobody's: a window without requests, or without work that weighs anything."""


def attribute(
    energy_j: float,
    idle_j: float,
    weights: Mapping[KeyT, float],
    presence_s: Mapping[KeyT, float],
) -> Attribution[KeyT]:
    """Share a window's energy out.

    Args:
        energy_j: what the replica used; negative counts as 0.
        idle_j: what it would have used with nothing to do; at most `energy_j` of it counts.
        weights: by request, tokens computed in the window, weighted; negative counts as 0.
        presence_s: by request, how long it was on the replica in the window.

    Returns:
        Shares of all requests in `weights` or `presence_s`. Their sum and what is unattributed make up
        `energy_j`, but for rounding.
    """
    energy_j = max(0.0, energy_j)
    idle_j = min(max(0.0, idle_j), energy_j)
    active_j = energy_j - idle_j
    keys = list(dict.fromkeys((*weights, *presence_s)))
    total_weight = sum(max(0.0, weights.get(key, 0.0)) for key in keys)
    total_s = sum(max(0.0, presence_s.get(key, 0.0)) for key in keys)
    shares = {}
    given_j = 0.0
    for key in keys:
        share = EnergyShare(
            active_j=active_j * max(0.0, weights.get(key, 0.0)) / total_weight if total_weight > 0 else 0.0,
            idle_j=idle_j * max(0.0, presence_s.get(key, 0.0)) / total_s if total_s > 0 else 0.0,
        )
        shares[key] = share
        given_j += share.total_j
    return Attribution(shares=shares, unattributed_j=max(0.0, energy_j - given_j))
