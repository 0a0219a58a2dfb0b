"""What keys, limits and budgets cost a request: the router's own code, timed without sockets.

A request is recognised by its key, checked against its models, reserves from seven quotas and a number of
places, gets its headers, and is settled. The ledger is an SQLite file that is asked as often as leases need
it, in a thread as in a router; requests that wait for it are in the figures.
"""

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from cluster.config import parse_config
from cluster.entities.tenancy import Usage
from cluster.entities.workload import RequestSignals, Surface
from deployments.router.metrics.counters import RouterMetrics
from deployments.router.tenants.counters import TenantMetrics
from deployments.router.tenants.tenants import Tenants
from deployments.tenants.keys import FileKeys, new_key
from load_tests.arguments import bounded
from load_tests.command import Parser, exit_with, print_json, spelled
from load_tests.record import circumstances
from load_tests.summary import percentile

_CONFIG = """
models:
  sim: {source: simulated, price_usd_per_million_input_tokens: 1, price_usd_per_million_output_tokens: 2}
pools: {p: {model: sim, engine: {kind: simulated}}}
tenants:
  enabled: true
  tenants:
    unlimited: {}
    limited:
      models: [sim]
      requests_per_minute: 100000000
      tokens_per_minute: 100000000000
      concurrent_requests_max: 1000
      budget:
        day: {usd: 1000000000, tokens: 1000000000000, energy_j: 1000000000000}
        month: {usd: 1000000000, tokens: 1000000000000}
"""
_CONCURRENT = 8
"""Requests at work at a time, so that places are held."""

Json = dict[str, Any]


async def measure(tenant: str, requests: int, state_dir: str) -> list[float]:
    """Seconds that each request spent on its tenant."""
    store = FileKeys(Path(state_dir) / "tenants" / "keys.json")
    record, key = new_key(tenant, name="", now_s=time.time(), expires_at_s=None)
    store.change(lambda keys: {**keys, record.key_id: record})
    loop = asyncio.get_running_loop()
    tenants = Tenants(
        parse_config(_CONFIG),
        state_dir=state_dir,
        admin_key="the-admin-key",
        router="r",
        now_s=loop.time,
        wall_s=time.time,
        metrics=TenantMetrics(RouterMetrics()),
    )
    await tenants.start()
    signals = RequestSignals(
        surface=Surface.CHAT, model="sim", tenant=tenant, prompt_tokens=200, max_output_tokens=100
    )
    request_headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    usage = Usage(requests=1, prompt_tokens=190, output_tokens=50, usd=2.9e-4)
    took_s: list[float] = []
    held: list[Any] = []
    for number in range(requests):
        answer_headers: dict[str, str] = {}
        before_s = time.perf_counter()
        caller = tenants.identify(request_headers)
        tenants.check_model(caller, "sim")
        admission = await tenants.admit(caller, tenants.size_of(caller, signals, answers=1), answer_headers)
        between_s = time.perf_counter()
        held.append(admission)
        settled_s = 0.0
        if len(held) > _CONCURRENT:
            oldest = held.pop(0)
            start_s = time.perf_counter()
            tenants.settle(oldest, usage)
            settled_s = time.perf_counter() - start_s
        took_s.append(between_s - before_s + settled_s)
        if number % 100 == 0:
            await asyncio.sleep(0.001)  # the loop has other work as well
    for admission in held:
        tenants.settle(admission, usage)
    await tenants.close()
    return took_s


def main(arguments: list[str] | None = None) -> None:
    """Run from the command line."""
    parser = Parser(
        prog="python -m load_tests.tenant_overhead",
        description="What keys and limits cost a request, in the router itself.",
    )
    parser.add_argument("--requests", type=bounded(int, 1000, 10_000_000), default=20_000)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args(arguments)
    rows: list[Json] = []
    for tenant in ("unlimited", "limited"):
        with tempfile.TemporaryDirectory(prefix="tidemill-tenants-") as folder:
            took_s = asyncio.run(measure(tenant, options.requests, folder))
        shares = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("p999", 0.999))
        row: Json = {"case": tenant, "policy": "sqlite", "seed": 0, "requests": options.requests}
        row |= {f"{name}_s": round(percentile(took_s, share), 8) for name, share in shares}
        row["mean_s"] = round(sum(took_s) / len(took_s), 8)
        rows.append(row)
        print(row, file=sys.stderr)
    result = {
        "benchmark": "tenant_overhead",
        "command": spelled("tenant_overhead", arguments),
        **circumstances(None),
        "rows": rows,
    }
    if options.json:
        print_json(result)


if __name__ == "__main__":
    exit_with(main)
