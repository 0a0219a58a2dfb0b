"""The dashboards: first what is asked of them most, then a panel for every metric of their areas.

An area of the catalogue that no dashboard names gets one of its own, so that a new metric is never without.
"""

from cluster.metrics import AREAS, Metric, fleet, objectives, requests, semantic_cache
from operators.dashboards.panel import RATE_WINDOW, Board, Panel, Query, Row, panel_of

_TITLES = {
    "fleet": "Fleet",
    "requests": "Requests",
    "cache": "Cache",
    "adapters": "Adapters",
    "provisioner": "Provisioner",
}
_OF_AREA = {
    "requests": "requests",
    "observability": "requests",
    "objectives": "provisioner",
    "fleet": "fleet",
    "semantic_cache": "cache",
    "adapters": "adapters",
    "adapters_fleet": "adapters",
}


def boards() -> tuple[Board, ...]:
    """All dashboards, in the order of a person's questions."""
    composed = {
        "fleet": (_fleet(), _objectives(), _energy(), _engines(), _ray()),
        "requests": (_answers(), _latencies()),
        "cache": (_cache(),),
        "provisioner": (_demand(), _plan()),
    }
    names = list(dict.fromkeys([*_TITLES, *(_OF_AREA.get(area, area) for area in AREAS)]))
    found = []
    for name in names:
        areas = [area for area in AREAS if _OF_AREA.get(area, area) == name]
        rows = [*composed.get(name, ()), *(_every_metric(area, AREAS[area]) for area in areas)]
        if rows:
            title = _TITLES.get(name) or name.replace("_", " ").capitalize()
            found.append(Board(name=name.replace("_", "-"), title=f"Tidemill: {title}", rows=tuple(rows)))
    return tuple(found)


def _every_metric(area: str, metrics: tuple[Metric, ...]) -> Row:
    title = f"Every metric: {area.replace('_', ' ')}"
    return Row(title=title, panels=tuple(panel_of(metric) for metric in metrics))


def _rate(name: str, by: str = "", selector: str = "") -> str:
    grouped = f" by ({by}) " if by else ""
    return f"sum{grouped}(rate({name}{selector}[{RATE_WINDOW}]))"


def _fleet() -> Row:
    ready = f'max by (pool) ({requests.REPLICAS.name}{{phase="ready"}})'
    return Row(
        title="Pools",
        panels=(
            Panel(
                title="Replicas there and asked for",
                queries=(
                    Query(expr=ready, legend="{{pool}} ready"),
                    Query(
                        expr=f"max by (pool) ({objectives.REPLICAS_REQUESTED.name})",
                        legend="{{pool}} asked for",
                    ),
                ),
                description="A pool whose second line stays above its first is stuck.",
            ),
            Panel(
                title="Requests in flight and waiting",
                queries=(
                    Query(expr=f"sum({requests.REQUESTS_IN_FLIGHT.name})", legend="in flight"),
                    Query(expr=f"sum({requests.REQUESTS_QUEUED.name})", legend="waiting"),
                ),
            ),
            Panel(
                title="Failed attempts by pool",
                unit="ops",
                queries=(Query(expr=_rate(requests.REPLICA_FAILURES.name, "pool"), legend="{{pool}}"),),
            ),
        ),
    )


def _objectives() -> Row:
    counted = objectives.SLO_REQUESTS.name
    met = _rate(counted, "model", '{result="met"}')
    return Row(
        title="Objectives",
        panels=(
            Panel(
                title="Within objectives",
                unit="percentunit",
                queries=(
                    Query(expr=f"{met} / {_rate(counted, 'model')}", legend="{{model}}"),
                    Query(expr=f"max by (model) ({objectives.SLO_TARGET.name})", legend="{{model}} promised"),
                ),
                description="Share of requests that met every objective; failed ones count as not met.",
            ),
            Panel(
                title="Goodput",
                unit="reqps",
                queries=(Query(expr=met, legend="{{model}}"),),
                description="Requests per second that met every objective.",
            ),
        ),
    )


def _energy() -> Row:
    joules = fleet.ENERGY.name
    tokens = requests.OUTPUT_TOKENS.name
    return Row(
        title="Energy (measured and modelled are never added up)",
        panels=(
            Panel(
                title="Power by pool",
                unit="watt",
                stacked=True,
                queries=(
                    Query(
                        expr=f"max by (pool, source) ({fleet.POOL_POWER.name})", legend="{{pool}} {{source}}"
                    ),
                ),
            ),
            Panel(
                title="Energy per output token",
                unit="joule",
                queries=(
                    Query(
                        expr=f"{_rate(fleet.MODEL_ENERGY.name, 'model, source')} / on (model) group_left () "
                        f"{_rate(tokens, 'model')}",
                        legend="{{model}} {{source}}",
                    ),
                ),
                description="Energy charged to requests for a model by the tokens they got, idling apart.",
            ),
            Panel(
                title="Energy that nobody caused",
                unit="percentunit",
                queries=(
                    Query(
                        expr=f"{_rate(fleet.UNATTRIBUTED_ENERGY.name, 'pool, source')} / "
                        f"{_rate(joules, 'pool, source')}",
                        legend="{{pool}} {{source}}",
                    ),
                ),
                description="Part of a pool's energy that was used while no request was there.",
            ),
        ),
    )


def _engines() -> Row:
    return Row(
        title="Engines (vLLM's own series)",
        panels=(
            Panel(
                title="Sequences running and waiting",
                queries=(
                    Query(expr="sum by (pool) (vllm:num_requests_running)", legend="{{pool}} running"),
                    Query(expr="sum by (pool) (vllm:num_requests_waiting)", legend="{{pool}} waiting"),
                ),
            ),
            Panel(
                title="KV cache in use",
                unit="percentunit",
                queries=(
                    Query(expr="max by (pool, replica) (vllm:kv_cache_usage_perc)", legend="{{replica}}"),
                ),
            ),
            Panel(
                title="Tokens per second",
                queries=(
                    Query(expr=_rate("vllm:prompt_tokens_total", "pool"), legend="{{pool}} prompt"),
                    Query(expr=_rate("vllm:generation_tokens_total", "pool"), legend="{{pool}} output"),
                ),
            ),
        ),
    )


def _ray() -> Row:
    return Row(
        title="Nodes (Ray's own series)",
        panels=(
            Panel(
                title="CPU in use",
                unit="percent",
                queries=(Query(expr="avg by (instance) (ray_node_cpu_utilization)", legend="{{instance}}"),),
            ),
            Panel(
                title="Memory in use",
                unit="bytes",
                queries=(Query(expr="sum by (instance) (ray_node_mem_used)", legend="{{instance}}"),),
            ),
        ),
    )


def _answers() -> Row:
    counted = requests.REQUESTS.name
    return Row(
        title="Answers",
        panels=(
            Panel(
                title="Requests by path",
                unit="reqps",
                stacked=True,
                queries=(Query(expr=_rate(counted, "path"), legend="{{path}}"),),
            ),
            Panel(
                title="Errors",
                unit="reqps",
                queries=(
                    Query(expr=_rate(counted, "status", '{status=~"4..|5.."}'), legend="{{status}}"),
                    Query(expr=_rate(requests.REJECTED.name, "reason"), legend="turned away: {{reason}}"),
                ),
            ),
            Panel(
                title="Output tokens per second",
                queries=(Query(expr=_rate(requests.OUTPUT_TOKENS.name, "model"), legend="{{model}}"),),
            ),
        ),
    )


def _latencies() -> Row:
    shown = (requests.TTFT, requests.TPOT, requests.ITL, requests.E2E)
    return Row(title="Latencies", panels=tuple(_all_paths(metric) for metric in shown))


def _all_paths(metric: Metric) -> Panel:
    rates = f"sum by (le) (rate({metric.name}_bucket[{RATE_WINDOW}]))"
    queries = tuple(
        Query(expr=f"histogram_quantile({q:g}, {rates})", legend=f"p{q * 100:g}") for q in (0.5, 0.95, 0.99)
    )
    return Panel(title=f"{metric.title} of all paths", unit="s", queries=queries, description=metric.help)


def _cache() -> Row:
    lookups = semantic_cache.CACHE_LOOKUPS.name
    hits = _rate(lookups, selector='{outcome=~"hit|shared"}')
    return Row(
        title="Does it pay, and may it be trusted",
        panels=(
            Panel(
                title="Hits among look-ups",
                unit="percentunit",
                queries=(Query(expr=f"{hits} / {_rate(lookups)}", legend="equal requests and near matches"),),
            ),
            Panel(
                title="Wrong among judged near matches",
                unit="percentunit",
                queries=(
                    Query(
                        expr=f"max by (category) ({semantic_cache.CACHE_WRONG_RATE.name})",
                        legend="{{category}}",
                    ),
                    Query(
                        expr=f"max by (category) ({semantic_cache.CACHE_ERROR_MAX.name})",
                        legend="{{category}} allowed",
                    ),
                ),
            ),
            Panel(
                title="Power saved by near matches",
                unit="watt",
                queries=(Query(expr=_rate(semantic_cache.CACHE_SAVED_ENERGY.name), legend="saved"),),
            ),
        ),
    )


def _demand() -> Row:
    forecast = objectives.FORECAST.name
    return Row(
        title="Forecast against demand",
        panels=(
            Panel(
                title="Arrivals, expected and come",
                unit="reqps",
                queries=(
                    Query(expr=_rate(objectives.DEMAND.name, "model"), legend="{{model}} came"),
                    Query(
                        expr=f'sum by (model) (max by (model, workload_class) ({forecast}{{bound="mean"}}))',
                        legend="{{model}} expected",
                    ),
                    Query(
                        expr=f'sum by (model) (max by (model, workload_class) ({forecast}{{bound="upper"}}))',
                        legend="{{model}} ready for",
                    ),
                ),
            ),
            Panel(
                title="Power, planned and drawn",
                unit="watt",
                queries=(
                    Query(expr=f"max({fleet.PLAN_POWER.name})", legend="planned"),
                    Query(
                        expr=f"sum by (source) (max by (pool, source) ({fleet.POOL_POWER.name}))",
                        legend="drawn, {{source}}",
                    ),
                ),
            ),
        ),
    )


def _plan() -> Row:
    return Row(
        title="Plan",
        panels=(
            Panel(
                title="Replicas wanted",
                stacked=True,
                queries=(Query(expr=f"max by (pool) ({fleet.REPLICAS_WANTED.name})", legend="{{pool}}"),),
            ),
            Panel(
                title="Why each pool is as large as it is",
                queries=(
                    Query(
                        expr=f"max by (pool, reason) ({objectives.POOL_PLAN_REASONS.name})",
                        legend="{{pool}}: {{reason}}",
                    ),
                ),
                description="A line at 1 for each reason of the last plan.",
            ),
            Panel(
                title="Seconds since the last decision",
                unit="s",
                kind="stat",
                queries=(Query(expr=f"max({fleet.PLAN_AGE.name})"),),
            ),
        ),
    )
