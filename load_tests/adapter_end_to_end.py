"""The adapter pager on a real engine, against the same engine as vLLM ships it.

A trace of requests over marker adapters, which answer with their own name, is replayed on an engine with
fewer slots: once with vLLM's LRU, once with the pager, in this order in the same run. Then the engine with
the pager is put through what must not break it. Engines run without Ray; adapters are trained when they are
not there yet. Stall is what the engine's worker measured in both cases: time spent loading adapters while
requests waited that had no use for them. The pager's loads come as calls between two steps, vLLM's own within
a step; what such a call costs beside the load is measured apart.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, get_args

import aiohttp
import numpy as np
import psutil
import yaml

from cluster.config.paging import PagingPolicyName
from deployments.adapter_pager.files import WEIGHTS_FILE
from deployments.engine.adapter_making import made_adapters
from deployments.engine.weights import default_cache_dir
from load_tests.arguments import bounded
from load_tests.command import Parser, exit_with, names_of, print_json, spelled
from load_tests.paged_engine import faults
from load_tests.paged_engine.engine import KINDS, REPORT_PATH
from load_tests.paged_engine.faults import Bench
from load_tests.paged_engine.trace import Answer, replay, trace
from load_tests.record import circumstances

_EDGE = Path(__file__).parents[1] / "configs" / "edge.yaml"
_START_S = 240.0
_CALLS = 20
_WARM_UP = ({"prompt": "Hello", "max_tokens": 8}, {"prompt": "a " * 200, "max_tokens": 2})


class Engines:
    """Starts engines and sees to it that none is left."""

    def __init__(self, config: Path, folder: Path, model: str) -> None:
        self._config = config
        self._folder = folder
        self._model = model
        self._running: subprocess.Popen[bytes] | None = None

    async def start(self, kind: str) -> tuple[str, psutil.Process]:
        """An engine that has answered; its address and its process."""
        log = self._folder / f"{kind}.log"
        out = self._folder / f"{kind}.out"
        state = self._folder / "state"
        command = [sys.executable, "-m", "load_tests.paged_engine.engine", kind, str(self._config)]
        with log.open("ab") as errors, out.open("wb") as lines:
            self._running = subprocess.Popen(  # noqa: ASYNC220, S603 - our own module
                [*command, "--state", str(state)],
                stdout=lines,
                stderr=errors,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                start_new_session=True,
            )
        deadline_s = time.monotonic() + _START_S
        while b'{"url"' not in out.read_bytes():
            if self._running.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"the engine did not start: {log.read_text(errors='replace')[-2000:]}")
            await asyncio.sleep(0.5)
        url = next(json.loads(line)["url"] for line in out.read_bytes().splitlines() if b'{"url"' in line)
        async with aiohttp.ClientSession() as session:
            for body in _WARM_UP:
                request = {"model": self._model, **body}
                async with session.post(f"{url}/v1/completions", json=request) as response:
                    response.raise_for_status()
        return str(url), psutil.Process(self._running.pid)

    def stop(self) -> None:
        """End the engine and everything that it started."""
        if self._running is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._running.pid, signal.SIGKILL)
        self._running.wait()
        self._running = None


@contextlib.asynccontextmanager
async def _engine(engines: Engines, kind: str) -> AsyncIterator[tuple[str, psutil.Process]]:
    tell(f"starting the engine ({kind})")
    try:
        yield await engines.start(kind)
    finally:
        engines.stop()


async def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """All rows."""
    names = [f"marker-{number:02}" for number in range(options.adapters)]
    sources = made_adapters(names, default_cache_dir(os.environ), tell)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="tidemill-adapters-") as scratch:
        folder = Path(scratch)
        config, model = _configuration(folder, sources, options)
        engines = Engines(config, folder, model)
        for seed in range(options.seed, options.seed + options.seeds):
            for kind in options.policies:
                async with _engine(engines, kind) as (url, process):
                    rows.append(await _trace_row(url, model, kind, seed, options))
                    tell(json.dumps(rows[-1]))
                    last = seed == options.seed + options.seeds - 1
                    if kind != "pager" or not last or not options.faults:
                        continue
                    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=300)) as session:
                        bench = Bench(
                            url=url,
                            process=process,
                            model=model,
                            slots=options.slots,
                            sources=sources,
                            folder=folder,
                            session=session,
                        )
                        async for row in _fault_rows(engines, bench, seed):
                            rows.append(row)
                            tell(json.dumps(row))
    return rows


def _configuration(folder: Path, sources: dict[str, Path], options: argparse.Namespace) -> tuple[Path, str]:
    """The edge configuration with marker adapters alone."""
    config = yaml.safe_load(_EDGE.read_text(encoding="utf-8"))
    (pool,) = config["pools"].values()
    model = pool["model"]
    pool["adapters"]["slots"] = options.slots
    pool["adapters"]["host_bytes"] = sum(
        (path / WEIGHTS_FILE).stat().st_size for path in sources.values()
    )  # as lru_host has
    pool["resources"]["cpus"] = options.cores
    config["adapters"] = {
        "catalogue": {name: {"base_model": model, "source": str(path)} for name, path in sources.items()},
        "paging": {"policy": options.paging_policy},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path, str(model)


async def _trace_row(
    url: str, model: str, kind: str, seed: int, options: argparse.Namespace
) -> dict[str, Any]:
    planned = trace(
        options.requests,
        adapters=options.adapters,
        rate_per_s=options.rate_per_s,
        zipf=options.zipf,
        tokens=(options.tokens_min, options.tokens_max),
        seed=seed,
    )
    before = await _report(url)
    began_s = time.monotonic()
    answers = await replay(url, model, planned)
    spent_s = time.monotonic() - began_s
    after = await _report(url)
    wrong = [answer for answer in answers if not answer.right]
    for answer in wrong[:5]:
        tell(f"wrong: marker-{answer.adapter:02} answered {answer.status} {answer.text[:200]!r}")
    return {
        "case": f"trace-{options.requests}x{options.adapters}/{options.slots}",
        "policy": kind,
        "seed": seed,
        "correct_ratio": 1 - len(wrong) / len(answers),
        **_latencies(answers),
        "page_ins": after["loads"] - before["loads"],
        "load_s": after["load_s"] - before["load_s"],
        "decode_stall_s": after["stall_s"] - before["stall_s"],
        "stream_stall_s": after["stream_stall_s"] - before["stream_stall_s"],
        "engine_call_p50_s": await _call_s(url),
        "duration_s": spent_s,
    }


def _latencies(answers: list[Answer]) -> dict[str, float]:
    ttft_s = np.array([answer.ttft_s for answer in answers if answer.status == 200] or [np.nan])
    gaps_s = np.array([gap_s for answer in answers for gap_s in answer.gaps_s] or [np.nan])
    return {
        "ttft_p50_s": float(np.quantile(ttft_s, 0.5)),
        "ttft_p95_s": float(np.quantile(ttft_s, 0.95)),
        "ttft_p99_s": float(np.quantile(ttft_s, 0.99)),
        "gap_p50_s": float(np.quantile(gaps_s, 0.5)),
        "gap_p99_s": float(np.quantile(gaps_s, 0.99)),
    }


async def _report(url: str) -> dict[str, float]:
    async with aiohttp.ClientSession() as session, session.get(f"{url}{REPORT_PATH}") as response:
        found: dict[str, float] = await response.json()
        return found


async def _call_s(url: str) -> float:
    """What a call to the worker takes while nothing runs, HTTP included: a page-in of the pager is one."""
    spent_s = []
    for _ in range(_CALLS):
        began_s = time.perf_counter()
        await _report(url)
        spent_s.append(time.perf_counter() - began_s)
    return float(np.median(spent_s))


async def _fault_rows(engines: Engines, bench: Bench, seed: int) -> AsyncIterator[dict[str, Any]]:
    for case in (
        faults.all_slots_busy,
        faults.load_fails,
        faults.corrupt_file,
        faults.removed_in_flight,
    ):
        found = await case(bench)
        yield {"case": f"fault-{case.__name__}", "policy": "pager", "seed": seed, **found}
    found = await faults.engine_killed(bench, lambda: engines.start("pager"))
    yield {"case": "fault-engine_killed", "policy": "pager", "seed": seed, **found}


def tell(message: str) -> None:
    """Progress."""
    print(message, file=sys.stderr, flush=True)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m load_tests.adapter_end_to_end",
        description="The adapter pager on a real engine, against vLLM's LRU.",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--requests", type=bounded(int, 10, 100_000), default=300, help="of a trace")
    parser.add_argument(
        "--adapters",
        type=int,
        default=8,
        choices=range(4, 17),
        metavar="4-16",
        help="markers that the trace asks for",
    )
    parser.add_argument("--slots", type=bounded(int, 1, 16), default=3, help="of the engine")
    parser.add_argument(
        "--rate-per-s", type=bounded(float, 0.01, 1000), default=1.2, help="mean arrivals (%(default)s)"
    )
    parser.add_argument(
        "--zipf", type=bounded(float, 0, 5), default=1.0, help="exponent of popularity (%(default)s)"
    )
    parser.add_argument("--tokens-min", type=bounded(int, 1, 1000), default=8, help="of an answer, at least")
    parser.add_argument("--tokens-max", type=bounded(int, 1, 1000), default=12, help="of an answer, at most")
    parser.add_argument("--cores", type=bounded(int, 1, 256), default=2, help="of the engine (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the first trace")
    parser.add_argument(
        "--seeds", type=bounded(int, 1, 100), default=1, help="traces, one after the other (%(default)s)"
    )
    parser.add_argument(
        "--policies", nargs="+", default=["lru", "pager"], help=f"all, or of {', '.join(KINDS)}"
    )
    parser.add_argument("--paging-policy", default="hybrid", help="of the pager (%(default)s)")
    parser.add_argument(
        "--faults", action=argparse.BooleanOptionalAction, default=True, help="break things on purpose, too"
    )
    given = parser.parse_args(arguments)
    try:
        given.policies = names_of(given.policies, KINDS, "policy")
        names_of(given.paging_policy, get_args(PagingPolicyName), "paging policy")
    except ValueError as error:
        parser.error(str(error))
    return given


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one JSON object with --json, else a line for each row."""
    options = _options(arguments)
    rows = asyncio.run(measure(options))
    if options.json:
        command = spelled("adapter_end_to_end", arguments)
        facts = circumstances(_EDGE)
        print_json({"benchmark": "adapter_end_to_end", "command": command, **facts, "rows": rows})
    else:
        for row in rows:
            print(row)


if __name__ == "__main__":
    exit_with(main)
