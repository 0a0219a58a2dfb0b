"""What every request's energy was: a ledger that shares out what replicas are metered or modelled to use.

Windows are closed by news of a replica's energy, every few seconds; a request that has ended waits for the
window it ended in. Requests are charged by each source apart: measured and modelled joules are not added up.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from cluster.config.telemetry import TelemetryConfig
from cluster.entities.energy import EnergySource, Meter
from cluster.entities.pool import ReplicaId
from cluster.policy.energy_attribution import attribute
from deployments.messages import ReplicaEnergy

_OTHER = "other"


class Payer(NamedTuple):
    """Whose requests used energy."""

    pool: str
    model: str
    tenant: str


@dataclass(slots=True, eq=False)
class EnergyEntry:
    """One request on one replica."""

    replica_id: ReplicaId
    pool: str
    model: str
    tenant: str
    prefill_tokens: int
    """Uncached prompt tokens that are computed there."""
    began_at_s: float
    tokens: Callable[[], int]
    """Output tokens so far."""
    prefilled: bool = False
    """Whether its prompt has been charged."""
    charged_tokens: int = 0
    charged_until_s: float = 0.0
    ended_at_s: float | None = None
    energy_j: dict[EnergySource, float] = field(default_factory=dict)


@dataclass(slots=True)
class _Window:
    energy_j: float
    observed_at_s: float
    watts_per_weight: float = 0.0
    """Joules above idle for each weighted token of the last window."""
    idle_w: float = 0.0


class EnergyLedger:
    """The accounts of one router. Not thread-safe."""

    def __init__(
        self,
        config: TelemetryConfig,
        clock: Callable[[], float],
        on_charge: Callable[[Payer, EnergySource, float], None],
        on_unattributed: Callable[[str, EnergySource, float], None],
    ) -> None:
        """Start empty.

        Args:
            config: weights and bounds.
            clock: the router's clock.
            on_charge: told once in a window for all requests of a payer: there may be thousands.
            on_unattributed: told of energy that is nobody's: pool, source, joules.
        """
        self._config = config
        self._clock = clock
        self._on_charge = on_charge
        self._on_unattributed = on_unattributed
        self._open: dict[ReplicaId, dict[int, EnergyEntry]] = {}
        self._windows: dict[tuple[ReplicaId, Meter], _Window] = {}

    def begin(self, entry: EnergyEntry) -> EnergyEntry:
        """A request begins on a replica."""
        entries = self._open.setdefault(entry.replica_id, {})
        if len(entries) < self._config.ledger_requests_max:
            entries[id(entry)] = entry
        entry.charged_until_s = entry.began_at_s
        return entry

    def end(self, entry: EnergyEntry) -> None:
        """It is over there; its last window is charged when it closes."""
        entry.ended_at_s = self._clock()
        tokens = entry.tokens()
        # Who counted them holds the whole connection, and nobody may ever tell what the replica has used.
        entry.tokens = lambda: tokens

    def settle(self, energy: Iterable[ReplicaEnergy]) -> None:
        """Close the windows that news of energy has come for.

        Args:
            energy: cumulative, by replica and meter.
        """
        known = list(energy)
        for account in known:
            key = (account.replica_id, account.meter)
            window = self._windows.get(key)
            # New, or from a node whose clock was set back: the next window begins here.
            if window is None or account.observed_at_s < window.observed_at_s:
                self._windows[key] = _Window(account.energy_j, account.observed_at_s)
            elif account.observed_at_s > window.observed_at_s:
                self._close(account, window)
                window.energy_j, window.observed_at_s = account.energy_j, account.observed_at_s
        current = {(account.replica_id, account.meter) for account in known}
        for key in [key for key in self._windows if key not in current]:
            del self._windows[key]
        replicas = {account.replica_id for account in known}
        for replica in [replica for replica in self._open if replica not in replicas]:
            # Nobody will ever tell what it used; requests that still run there stay.
            self._drop_ended(replica)

    def forget_all_but(self, replicas: Iterable[ReplicaId]) -> None:
        """Forget what ended on other replicas: where nobody plans, nobody tells that they have left."""
        known = set(replicas)
        for replica in [replica for replica in self._open if replica not in known]:
            self._drop_ended(replica)

    def energy_of(self, entry: EnergyEntry) -> tuple[float, EnergySource] | None:
        """What a request has used, the open window estimated; None if nothing is known of its replica."""
        windows = [(key[1], window) for key, window in self._windows.items() if key[0] == entry.replica_id]
        if not windows:
            return None
        meter, window = max(windows, key=lambda found: found[1].observed_at_s)
        weight = self._weight(entry, charge=False)
        present_s = max(0.0, self._clock() - entry.charged_until_s)
        sharing = max(1, len(self._open.get(entry.replica_id, {})))
        estimate_j = weight * window.watts_per_weight + present_s * window.idle_w / sharing
        return entry.energy_j.get(meter.source, 0.0) + estimate_j, meter.source

    def _close(self, account: ReplicaEnergy, window: _Window) -> None:
        used_j = max(0.0, account.energy_j - window.energy_j)
        span_s = account.observed_at_s - window.observed_at_s
        entries = self._open.get(account.replica_id, {})
        now_s = self._clock()
        weights = {key: self._weight(entry, charge=True) for key, entry in entries.items()}
        presence_s = {
            key: max(0.0, (now_s if entry.ended_at_s is None else entry.ended_at_s) - entry.charged_until_s)
            for key, entry in entries.items()
        }
        idle_j = account.idle_w * span_s
        found = attribute(used_j, idle_j, weights, presence_s)
        total = sum(weights.values())
        if total > 0:
            window.watts_per_weight = max(0.0, used_j - idle_j) / total
        window.idle_w = account.idle_w
        source = account.meter.source
        payers: defaultdict[Payer, float] = defaultdict(float)
        for key, share in found.shares.items():
            entry = entries[key]
            entry.energy_j[source] = entry.energy_j.get(source, 0.0) + share.total_j
            entry.charged_until_s = now_s
            payers[Payer(entry.pool, entry.model, entry.tenant)] += share.total_j
        for payer, energy_j in payers.items():
            self._on_charge(payer, source, energy_j)
        if found.unattributed_j > 0:
            self._on_unattributed(account.pool, source, found.unattributed_j)
        self._drop_ended(account.replica_id)

    def _weight(self, entry: EnergyEntry, *, charge: bool) -> float:
        """Weighted tokens since the last window; with `charge` they count as charged from now on."""
        tokens = entry.tokens()
        weight = self._config.decode_token_weight * max(0, tokens - entry.charged_tokens)
        # A prompt is computed by the time its first token is there, or the request has ended without one.
        if not entry.prefilled and (tokens > 0 or entry.ended_at_s is not None):
            weight += entry.prefill_tokens
            entry.prefilled = charge
        if charge:
            entry.charged_tokens = max(tokens, entry.charged_tokens)
        return weight

    def _drop_ended(self, replica: ReplicaId) -> None:
        entries = self._open.get(replica, {})
        for key in [key for key, entry in entries.items() if entry.ended_at_s is not None]:
            del entries[key]
        if not entries:
            self._open.pop(replica, None)


class TenantNames:
    """Tenants with a series of their own; the others are one."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: set[str] = set()

    def of(self, tenant: str) -> str:
        """The tenant's own name, or `other` once there are too many."""
        if tenant in self._known:
            return tenant
        if len(self._known) >= self._most:
            return _OTHER
        self._known.add(tenant)
        return tenant
