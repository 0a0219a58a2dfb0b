"""Tenants: what they ask, use and have left. Tenants are configured names, so their number is bounded."""

from cluster.metrics.metric import Metric

TENANT_REQUESTS = Metric(
    "tidemill_tenant_requests_total",
    "counter",
    "Requests of a tenant: answered, or why they were turned away.",
    ("tenant", "outcome"),
)
TENANT_TOKENS = Metric(
    "tidemill_tenant_tokens_total",
    "counter",
    "Tokens that count against a tenant's limits: prompt and output.",
    ("tenant", "kind"),
)
TENANT_COST = Metric(
    "tidemill_tenant_cost_usd_total",
    "counter",
    "What a tenant's answers cost at the models' prices.",
    ("tenant",),
)
BUDGET_USED = Metric(
    "tidemill_tenant_budget_used_ratio",
    "gauge",
    "Used part of a tenant's budget, as far as this router knows.",
    ("tenant", "window", "unit"),
)
KEYS_REFUSED = Metric("tidemill_keys_refused_total", "counter", "Requests with no valid API key.")
LEDGER_FAILURES = Metric(
    "tidemill_tenant_ledger_failures_total",
    "counter",
    "Times that the ledger of tenants did not answer in time.",
)

METRICS = (TENANT_REQUESTS, TENANT_TOKENS, TENANT_COST, BUDGET_USED, KEYS_REFUSED, LEDGER_FAILURES)
