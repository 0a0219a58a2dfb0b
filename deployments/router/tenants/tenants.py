"""Tenants at the router: who calls, whether they may, what they have used, and whose turn it is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from cluster.config import TidemillConfig
from cluster.entities.decision import DecisionRecord
from cluster.entities.energy import EnergySource
from cluster.entities.reasons import Reason
from cluster.entities.routing import Path
from cluster.entities.tenancy import Usage
from cluster.entities.workload import RequestSignals
from cluster.policy.tenancy.fair_order import Flow
from cluster.policy.tenancy.windows import slot_end_s, slot_name
from deployments.router.tenants.answers import headers, model_refused
from deployments.router.tenants.counters import TenantMetrics
from deployments.router.tenants.gate import ONCE, Asks, Size, TenantGate
from deployments.router.tenants.keys import OPERATOR, Caller, KeyRing
from deployments.router.tenants.lease import Reservation
from deployments.router.wire.errors import ApiError
from deployments.tenants.ledger import UsageRow
from deployments.tenants.stores import key_store, ledger

_VERDICT_TOKENS = 64
"""What asks for a verdict, beside question and answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """A request that was let in; it is settled once."""

    tenant: str
    reservation: Reservation | None
    """None if it was let in without asking."""


class Tenants:
    """What the router asks about its callers."""

    def __init__(
        self,
        config: TidemillConfig,
        *,
        state_dir: str,
        admin_key: str,
        router: str,
        now_s: Callable[[], float],
        wall_s: Callable[[], float],
        metrics: TenantMetrics,
    ) -> None:
        """Prepare; `start` reads keys.

        Args:
            config: of the cluster.
            state_dir: where the embedded store is.
            admin_key: the operator's key.
            router: this router's id.
            now_s: the router's clock.
            wall_s: Unix time.
            metrics: told of everything.
        """
        section = config.tenants
        self._config = config
        self._metrics = metrics
        self._keys = KeyRing(config, key_store(section.store, state_dir), admin_key, wall_s)
        self._now_s = now_s
        self.gate = TenantGate(
            section.tenants,
            section.store,
            ledger(section.store, state_dir),
            router=router,
            routers=config.gateway.router_replicas,
            now_s=now_s,
            on_away=metrics.ledger_failed,
        )
        self._flows = {
            name: Flow(tenant=name, rank=tenant.priority.rank, weight=tenant.weight)
            for name, tenant in section.tenants.items()
        }
        self._operator = Flow(tenant=OPERATOR)
        self._prices = {
            name: (
                model.price_usd_per_million_input_tokens / 1e6,
                model.price_usd_per_million_output_tokens / 1e6,
            )
            for name, model in config.models.items()
        }

    async def start(self) -> None:
        """Read keys and begin to keep books."""
        await self._keys.start()
        self.gate.start()

    async def close(self) -> None:
        """Give back what is held."""
        await self._keys.close()
        await self.gate.close()

    def identify(self, request_headers: Mapping[str, str]) -> Caller:
        """Who calls.

        Raises:
            ApiError: 401 without a valid key.
        """
        try:
            return self._keys.identify(request_headers)
        except ApiError:
            self._metrics.key_refused()
            raise

    def check_model(self, caller: Caller, model: str) -> None:
        """Refuse a model that the caller may not ask.

        Raises:
            ApiError: 403.
        """
        if caller.models is not None and model not in caller.models:
            self._refused(caller.tenant, Reason.MODEL_REFUSED)
            raise model_refused(model, caller.names)

    def flow_of(self, tenant: str) -> Flow:
        """A tenant's place in the order of the queue."""
        return self._flows.get(tenant, self._operator)

    def size_of(self, caller: Caller, signals: RequestSignals, answers: int, asks: Asks = ONCE) -> Size:
        """What a request for tokens may use, with so many answers of so many models."""
        bound = signals.max_output_tokens
        output = self._config.tenants.output_tokens_assumed if bound is None else bound
        prompt_tokens, output_tokens = asks.models * signals.prompt_tokens, asks.models * answers * output
        if asks.judged:
            prompt_tokens += asks.models * (signals.prompt_tokens + output + _VERDICT_TOKENS)
            output_tokens += asks.models
        return Size(
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            flexible=bound is None,
            usd_per_token=self._price(signals.model, caller),
        )

    def fitting(self, caller: Caller, signals: RequestSignals, answers: int, asks: Asks) -> Asks:
        """As much of what a request may ask as its tenant's limits could ever hold: at least one model."""
        while asks.models > 1 and caller.tenant != OPERATOR:
            if self.gate.could_fit(caller.tenant, self.size_of(caller, signals, answers, asks)):
                break
            asks = replace(asks, models=asks.models - 1)
        return asks

    async def admit(self, caller: Caller, size: Size, answer_headers: dict[str, str]) -> Admission | None:
        """Let a request in, or not; None for the operator.

        Args:
            caller: whose it is.
            size: what it may use.
            answer_headers: get limits and what is left of them.

        Raises:
            ApiError: 402, 429 or 503.
        """
        if caller.tenant == OPERATOR:
            return None
        leases = self.gate.leases(caller.tenant)
        try:
            reservation = await self.gate.admit(caller.tenant, size)
        except ApiError as error:
            answer_headers |= headers(leases.leases, caller.config.budget.warn_share)
            if error.reason is not None:
                self._refused(caller.tenant, error.reason)
            raise
        if leases.leases:
            answer_headers |= headers(leases.leases, caller.config.budget.warn_share)
        return Admission(tenant=caller.tenant, reservation=reservation)

    def settle(self, admission: Admission, usage: Usage) -> None:
        """Count what an admitted request has used after all."""
        leases = self.gate.leases(admission.tenant)
        tokens = float(usage.prompt_tokens + usage.output_tokens)
        if admission.reservation is None:
            leases.owe(tokens, usage.usd)
        else:
            leases.settle(admission.reservation, tokens=tokens, usd=usage.usd, now_s=self._now_s())
        self.gate.used(admission.tenant, usage)
        self._metrics.used(admission.tenant, usage, leases.leases)

    def usage_of(self, record: DecisionRecord, tokens_seen: int) -> Usage:
        """What a finished request counts for.

        Args:
            record: of it.
            tokens_seen: output tokens that came before it ended, if it ended without telling.
        """
        if record.path is Path.CACHED:
            return Usage(requests=1, cached=1)
        if record.cascade:  # all models that were asked made their part
            return Usage(
                requests=1,
                prompt_tokens=sum(step.prompt_tokens for step in record.cascade),
                output_tokens=sum(step.output_tokens for step in record.cascade),
                usd=sum(step.cost_usd for step in record.cascade),
            )
        prompt, output = record.prompt_tokens, record.output_tokens or tokens_seen
        if prompt is None:
            prompt = record.signals.prompt_tokens if tokens_seen else 0
        price_in, price_out = self._prices.get(record.signals.model, (0.0, 0.0))
        usd = prompt * price_in + output * price_out
        return Usage(requests=1, prompt_tokens=prompt, output_tokens=output, usd=usd)

    def charge_energy(self, tenant: str, source: EnergySource, energy_j: float) -> None:
        """Energy that a tenant's requests have used."""
        if tenant not in self._flows:
            return
        self.gate.leases(tenant).charge_energy(energy_j)
        measured = source is EnergySource.MEASURED
        self.gate.used(
            tenant,
            Usage(measured_j=energy_j if measured else 0.0, modelled_j=0.0 if measured else energy_j),
        )

    async def usage(self, tenant: str | None) -> list[dict[str, Any]]:
        """Rows of the usage report.

        Raises:
            LedgerAwayError: it cannot be told now.
        """
        return [_row(row) for row in await self.gate.usage() if tenant in (None, row.tenant)]

    def _price(self, model: str, caller: Caller) -> tuple[float, float]:
        """What a token may cost at most: of the dearest model where it is open which one answers."""
        if model in self._prices:
            return self._prices[model]
        names = self._prices if caller.models is None else self._prices.keys() & caller.models
        prices = [self._prices[name] for name in names] or list(self._prices.values())
        return max(price[0] for price in prices), max(price[1] for price in prices)

    def _refused(self, tenant: str, reason: Reason) -> None:
        if tenant in self._flows:
            self.gate.used(tenant, Usage(refused=1))
            self._metrics.refused(tenant, reason)


def _row(row: UsageRow) -> dict[str, Any]:
    usage = row.usage
    return {
        "tenant": row.tenant,
        "window": row.window.value,
        "start": slot_name(row.window, row.slot),
        "ends_at_s": slot_end_s(row.window, row.slot),
        "requests": usage.requests,
        "refused": usage.refused,
        "cached": usage.cached,
        "prompt_tokens": usage.prompt_tokens,
        "output_tokens": usage.output_tokens,
        "cost_usd": usage.usd,
        "energy_measured_j": usage.measured_j,
        "energy_modelled_j": usage.modelled_j,
    }
