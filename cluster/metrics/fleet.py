"""The fleet's energy, and what the provisioner wants of it."""

from cluster.metrics.metric import Metric

ENERGY = Metric(
    "tidemill_energy_joules_total",
    "counter",
    "Energy of a pool's replicas, as charged to this router's requests or to nobody, by whether it was "
    "measured or modelled.",
    ("pool", "source"),
)
MODEL_ENERGY = Metric(
    "tidemill_model_energy_joules_total",
    "counter",
    "Energy charged to requests for a model.",
    ("model", "source"),
)
TENANT_ENERGY = Metric(
    "tidemill_tenant_energy_joules_total",
    "counter",
    "Energy charged to a tenant's requests; tenants beyond telemetry.tenants_max are `other`.",
    ("tenant", "source"),
)
UNATTRIBUTED_ENERGY = Metric(
    "tidemill_unattributed_energy_joules_total",
    "counter",
    "Energy that was used while no request was there.",
    ("pool", "source"),
)
ENERGY_PER_OUTPUT_TOKEN = Metric(
    "tidemill_energy_per_output_token_joules",
    "gauge",
    "Energy charged to a pool's requests, by output token, since the router started.",
    ("pool", "source"),
)
POOL_POWER = Metric(
    "tidemill_pool_power_watts",
    "gauge",
    "Power of a pool's replicas over the last window.",
    ("pool", "source"),
    everywhere=True,
)
METER_ERRORS = Metric(
    "tidemill_energy_meter_errors",
    "gauge",
    "Devices that an energy meter cannot read now, by meter and reason.",
    ("meter", "error"),
    everywhere=True,
)
REPLICAS_WANTED = Metric(
    "tidemill_pool_replicas_wanted",
    "gauge",
    "Replicas that the provisioner wants of a pool.",
    ("pool",),
    everywhere=True,
)
PLAN_POWER = Metric(
    "tidemill_plan_power_watts",
    "gauge",
    "Power that the plan is predicted to draw at the forecast demand.",
    everywhere=True,
)
PLAN_DEGRADED = Metric(
    "tidemill_plan_degraded",
    "gauge",
    "1 while the forecast demand cannot be served within the objectives, else 0.",
    everywhere=True,
)
PLAN_AGE = Metric(
    "tidemill_plan_age_seconds",
    "gauge",
    "Time since the provisioner's last decision; grows while it is away.",
    everywhere=True,
)

METRICS = (
    ENERGY,
    MODEL_ENERGY,
    TENANT_ENERGY,
    UNATTRIBUTED_ENERGY,
    ENERGY_PER_OUTPUT_TOKEN,
    POOL_POWER,
    METER_ERRORS,
    REPLICAS_WANTED,
    PLAN_POWER,
    PLAN_DEGRADED,
    PLAN_AGE,
)
