"""What gateways add: Tidemill's, other systems' and Serve's own handles, before one engine, in turns.

    python -m load_tests.gateway_overhead --peers all --install --json

One cluster is started with everything on that a request of Tidemill's can meet (keys, limits and budgets of
tenants, policies, semantic cache, decision log, request log, metrics), beside it pipelines of Serve handles
and the other gateways, all on the same cores. The simulated engine answers at once. Within a round every
gateway and the engine itself get the same load one after the other; what a gateway adds is the difference to
the engine in the same round.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from cluster.config import ConfigError
from load_tests.arguments import bounded, existing_file
from load_tests.client import Outcome, Target
from load_tests.closed_loop import ClosedLoad, run_closed
from load_tests.command import Parser, exit_with, names_of, print_json, spelled
from load_tests.peers.gateways import GATEWAYS
from load_tests.peers.site import PEERS, Site, SiteError, measured_site
from load_tests.record import circumstances
from load_tests.summary import percentile

CONFIG = Path(__file__).parent / "configs" / "gateway_overhead.yaml"
DIRECT = "engine"
_WARM_UP_REQUESTS = 48
_SHARES = (0.5, 0.99)

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long and how hard."""

    modes: tuple[str, ...] = ("unary", "stream")
    concurrencies: tuple[int, ...] = (1, 16, 64)
    rounds: int = 3
    arm_s: float = 1.0
    """How long requests begin, for each gateway in each round."""
    output_tokens: int = 50
    """Of a stream; a whole answer has one, so that nothing but the way to it is measured."""
    prompt_tokens: int = 32
    seed: int = 0

    def load(self, mode: str, concurrency: int, *, model: str, number: int) -> ClosedLoad:
        """What one gateway gets in one round."""
        return ClosedLoad(
            model=model,
            concurrency=concurrency,
            requests=1_000_000,
            duration_s=self.arm_s,
            prompt_tokens=self.prompt_tokens,
            output_tokens=self.output_tokens if mode == "stream" else 1,
            stream=mode == "stream",
            temperature=1.0,
            seed=self._prompts_of(mode, concurrency, number),
            timeout_s=60.0,
        )

    def _prompts_of(self, mode: str, concurrency: int, number: int) -> int:
        """A seed that no other load has: a prompt that was sent before would be answered from the cache."""
        which = self.modes.index(mode) * len(self.concurrencies) + self.concurrencies.index(concurrency)
        return self.seed + 1000 * (1 + which * (self.rounds + 1) + number)


@dataclass(frozen=True, slots=True)
class _Arm:
    """One gateway in one round."""

    outcomes: list[Outcome]
    elapsed_s: float

    @property
    def whole(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.ok]

    @property
    def e2e_s(self) -> list[float]:
        return [outcome.timeline.e2e_s or 0.0 for outcome in self.whole]

    @property
    def ttft_s(self) -> list[float]:
        return [outcome.timeline.ttft_s or 0.0 for outcome in self.whole]

    @property
    def tokens_per_s(self) -> float:
        return sum(outcome.timeline.output_tokens for outcome in self.whole) / self.elapsed_s

    @property
    def requests_per_s(self) -> float:
        return len(self.whole) / self.elapsed_s


async def compare(site: Site, plan: Plan) -> list[Json]:
    """All rounds of all modes and concurrencies; one row for each gateway in each."""
    rows: list[Json] = []
    for mode in plan.modes:
        for concurrency in plan.concurrencies:
            rounds = []
            for number in range(plan.rounds + 1):
                measured = {}
                for name, target in site.targets.items():
                    load = plan.load(mode, concurrency, model=site.model, number=number)
                    measured[name] = await _arm(site, name, target, load, warm_up=number == 0)
                if number:  # the first one warms up
                    rounds.append(measured)
            rows += [_row(name, mode, concurrency, rounds, plan) for name in site.targets]
            shown = {
                row["policy"]: (row["e2e_p50_s"], row["tokens_per_s"]) for row in rows[-len(site.targets) :]
            }
            print(f"{mode} at {concurrency}: {shown}", file=sys.stderr, flush=True)
    return rows


async def _arm(site: Site, name: str, target: Target, load: ClosedLoad, *, warm_up: bool) -> _Arm:
    if warm_up:
        load = replace(load, requests=max(_WARM_UP_REQUESTS, load.concurrency), duration_s=5.0)
    if name in site.asks_the_cache:
        load = replace(load, temperature=0.0)
    outcomes, elapsed_s = await run_closed(target, load, api_key=site.api_keys.get(name))
    return _Arm(outcomes, elapsed_s)


def _row(name: str, mode: str, concurrency: int, rounds: Sequence[dict[str, _Arm]], plan: Plan) -> Json:
    arms = [one[name] for one in rounds]
    direct = [one[DIRECT] for one in rounds]
    whole = [arm for arm in arms if arm.whole]
    row: Json = {
        "case": f"{mode}, {concurrency} at a time",
        "policy": name,
        "peer": name,
        "mode": mode,
        "concurrency": concurrency,
        "seed": plan.seed,
        "rounds": len(rounds),
        "requests": sum(len(arm.whole) for arm in arms),
        "failures": sum(len(arm.outcomes) - len(arm.whole) for arm in arms),
        "tokens_per_s": _median(arm.tokens_per_s for arm in arms),
        "tokens_per_s_min": _least(arm.tokens_per_s for arm in arms),
        "tokens_per_s_max": _most(arm.tokens_per_s for arm in arms),
        "requests_per_s": _median(arm.requests_per_s for arm in arms),
    }
    for share in _SHARES:
        label = f"p{round(100 * share)}"
        row[f"e2e_{label}_s"] = _median(percentile(arm.e2e_s, share) for arm in whole)
        row[f"ttft_{label}_s"] = _median(percentile(arm.ttft_s, share) for arm in whole)
        added = [
            percentile(arm.e2e_s, share) - percentile(alone.e2e_s, share)
            for arm, alone in zip(arms, direct, strict=True)
            if arm.whole and alone.whole
        ]
        row[f"added_{label}_s"] = _median(added)
        row[f"added_{label}_s_min"], row[f"added_{label}_s_max"] = _least(added), _most(added)
    return row


def _median(values: Any) -> float | None:
    known = list(values)
    return round(median(known), 6) if known else None


def _least(values: Any) -> float | None:
    return min((round(value, 6) for value in values), default=None)


def _most(values: Any) -> float | None:
    return max((round(value, 6) for value in values), default=None)


def table(rows: Sequence[Json]) -> str:
    """For people: milliseconds added and rates."""
    lines = [f"{'':26}{'added p50 ms':>14}{'p99 ms':>10}{'requests/s':>12}{'tokens/s':>11}{'failed':>8}"]
    case = None
    for row in rows:
        if row["case"] != case:
            case = row["case"]
            lines.append(case)
        cells = [
            f"{1000 * row[name]:.2f}" if row[name] is not None else "-"
            for name in ("added_p50_s", "added_p99_s")
        ]
        lines.append(
            f"  {row['policy']:24}{cells[0]:>14}{cells[1]:>10}{row['requests_per_s']:>12,.0f}"
            f"{row['tokens_per_s']:>11,.0f}{row['failures']:>8}"
        )
    return "\n".join(lines)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    default = Plan()
    parser = Parser(prog="python -m load_tests.gateway_overhead", description=__doc__.split("\n")[0])
    parser.add_argument("--peers", default="all", help=f"all, or with commas: {', '.join(PEERS)}")
    parser.add_argument(
        "--install",
        action="store_true",
        help="install gateways that are not there, each into a virtual environment of its own "
        f"({', '.join(gateway.package for gateway in GATEWAYS)})",
    )
    parser.add_argument("--modes", default=",".join(default.modes), help="whole answers, streams, or both")
    parser.add_argument(
        "--concurrency",
        default=",".join(map(str, default.concurrencies)),
        help="requests at a time, with commas",
    )
    parser.add_argument(
        "--rounds", type=bounded(int, 1, 100), default=default.rounds, help="of all gateways in turn"
    )
    parser.add_argument(
        "--arm-s", type=bounded(float, 0.1, 60), default=default.arm_s, help="seconds of each (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=default.seed, help="of the prompts (%(default)s)")
    parser.add_argument("--config", type=existing_file, default=CONFIG, help="of the cluster (%(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    given = parser.parse_args(arguments)
    try:
        given.peers = names_of(given.peers, PEERS, "peer")
        given.modes = tuple(names_of(given.modes, default.modes, "mode"))
    except ValueError as error:
        parser.error(str(error))
    try:
        read = bounded(int, 1, 256)
        given.concurrency = tuple(read(text) for text in given.concurrency.split(","))
    except argparse.ArgumentTypeError as error:
        parser.error(f"--concurrency: {error}")
    return given


async def _measure(given: argparse.Namespace, plan: Plan) -> tuple[list[Json], dict[str, str]]:
    async with measured_site(given.config, given.peers, install=given.install) as site:
        for name, why in site.absent.items():
            print(f"{name} is not measured: {why}", file=sys.stderr)
        return await compare(site, plan), site.absent


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; status 1 if one of Tidemill's own requests failed."""
    given = _options(arguments)
    plan = Plan(
        modes=given.modes,
        concurrencies=given.concurrency,
        rounds=given.rounds,
        arm_s=given.arm_s,
        seed=given.seed,
    )
    facts = circumstances(given.config)
    try:
        rows, absent = asyncio.run(_measure(given, plan))
    except (SiteError, ConfigError) as error:
        sys.exit(f"gateway_overhead: {error}")
    if given.json:
        result = {
            "benchmark": "gateway_overhead",
            "command": spelled("gateway_overhead", arguments),
            **facts,
            "packages": {gateway.name: gateway.package for gateway in GATEWAYS},
            "not_measured": absent,
            "rows": rows,
        }
        print_json(result)
    else:
        print(table(rows))
    return int(any(row["failures"] for row in rows if row["policy"].startswith("tidemill")))


if __name__ == "__main__":
    exit_with(main)
