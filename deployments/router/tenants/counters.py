"""Counts what tenants do, for Prometheus."""

from collections.abc import Iterable

from cluster.entities.reasons import Reason
from cluster.entities.tenancy import Usage
from cluster.metrics import tenants
from deployments.router.metrics.counters import RouterMetrics
from deployments.router.tenants.lease import Lease


class TenantMetrics:
    """The tenants' part of a router's metrics."""

    def __init__(self, metrics: RouterMetrics) -> None:
        get = metrics.get
        self._series = metrics.series
        self._keys_refused = get(tenants.KEYS_REFUSED)
        self._ledger_failures = get(tenants.LEDGER_FAILURES)

    def key_refused(self) -> None:
        """Count a request without a valid key."""
        self._keys_refused.inc()

    def ledger_failed(self) -> None:
        """Count a failure of the ledger."""
        self._ledger_failures.inc()

    def refused(self, tenant: str, reason: Reason) -> None:
        """Count a request that was turned away."""
        self._series(tenants.TENANT_REQUESTS, tenant, reason.value).inc()

    def used(self, tenant: str, usage: Usage, leases: Iterable[Lease]) -> None:
        """Count a request that was let in, and show the tenant's budgets."""
        self._series(tenants.TENANT_REQUESTS, tenant, "cached" if usage.cached else "admitted").inc()
        self._series(tenants.TENANT_TOKENS, tenant, "prompt").inc(usage.prompt_tokens)
        self._series(tenants.TENANT_TOKENS, tenant, "output").inc(usage.output_tokens)
        self._series(tenants.TENANT_COST, tenant).inc(usage.usd)
        for lease in leases:
            if lease.quota.is_budget:
                used = 1.0 - lease.available() / lease.quota.limit
                quota = lease.quota
                self._series(tenants.BUDGET_USED, tenant, quota.window.value, lease.unit.value).set(used)
