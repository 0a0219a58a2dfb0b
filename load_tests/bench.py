"""Starts everything that `relay_vs_handles` compares, runs it, and stops everything.

One cluster serves both: `tidemill up` with two simulated engines, and beside it the pipeline of handles as
one more Serve application, so that both stand behind the same ingress.
"""

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from cluster.config import TidemillConfig, load_config
from load_tests.arguments import bounded
from load_tests.command import Parser, exit_with

ROOT = Path(__file__).resolve().parent.parent
CONFIG = Path(__file__).parent / "configs" / "relay.yaml"
_READY = "tidemill is ready:"
_PIPELINES = ("/handles", "/handles-optimised")
_CLUSTER_MARK = "TIDEMILL_CLUSTER_ID"
"""Environment variable that every process of a cluster has."""
_STOP_TIMEOUT_S = 120.0
_DEPLOY_TIMEOUT_S = 180.0
_ANSWER_TIMEOUT_S = 60.0
_LINE_BYTES_MAX = 1 << 20

Process = asyncio.subprocess.Process


class BenchError(RuntimeError):
    """The comparison could not be run; says what was missing."""


@contextlib.asynccontextmanager
async def cluster(config_path: Path, *, admin_key: str, start_timeout_s: float) -> AsyncIterator[Process]:
    """A cluster started with `tidemill up`, stopped as Ctrl-C stops it.

    Raises:
        BenchError: it did not become ready; its output is on stderr.
    """
    command = tidemill_command()
    # State of its own, so that a cluster of the user's is neither found nor stopped.
    state = tempfile.mkdtemp(prefix="tidemill-bench-")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "TIDEMILL_STATE": state}
    process = await asyncio.create_subprocess_exec(
        *command,
        "up",
        "-c",
        str(config_path),
        cwd=ROOT,
        env={**environment, "TIDEMILL_ADMIN_KEY": admin_key},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
        limit=_LINE_BYTES_MAX,
    )
    ready = asyncio.Event()
    output = asyncio.create_task(_forward(process, ready))
    try:
        try:
            async with asyncio.timeout(start_timeout_s):
                await ready.wait()
        except TimeoutError as error:
            raise BenchError(f"`tidemill up` was not ready within {start_timeout_s:g} s") from error
        if process.returncode is not None or output.done():
            raise BenchError("`tidemill up` ended before it was ready")
        yield process
    finally:
        await _stop(process, [*command, "down"], environment)
        await output
        shutil.rmtree(state, ignore_errors=True)


def tidemill_command() -> list[str]:
    """How `tidemill` is called here."""
    beside = Path(sys.executable).parent / "tidemill"
    found = str(beside) if beside.exists() else shutil.which("tidemill")
    if found is None:
        code = "from operators.cli.app import main; main()"
        return [sys.executable, "-c", code]
    return [found]


async def _forward(process: Process, ready: asyncio.Event) -> None:
    assert process.stdout is not None  # noqa: S101 - it was asked for
    async for line in process.stdout:
        text = line.decode(errors="replace")
        sys.stderr.write(text)
        if _READY in text:
            ready.set()
    ready.set()


async def _stop(process: Process, down: list[str], environment: dict[str, str]) -> None:
    """Stop as a person would: Ctrl-C, Ctrl-C again, and if even that does not end it, `tidemill down`."""
    for _ in range(2):
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError, TimeoutError):
                process.send_signal(signal.SIGINT)
                async with asyncio.timeout(_STOP_TIMEOUT_S):
                    await process.wait()
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        last = await asyncio.create_subprocess_exec(*down, cwd=ROOT, env=environment, stdout=sys.stderr)
        await last.wait()


def cluster_environment(process: Process) -> dict[str, str]:
    """The environment of the cluster that a process started: what a driver needs to be let in.

    Raises:
        BenchError: no process of the cluster was found below it.
    """
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            environment = child.environ()
            if _CLUSTER_MARK in environment:
                return environment
    raise BenchError("found no process of the cluster that `tidemill up` started")


async def run_module(*arguments: str, environment: dict[str, str], timeout_s: float) -> None:
    """Run `python -m` with these arguments to its end.

    Raises:
        BenchError: it failed or took too long.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *arguments, cwd=ROOT, env={**environment, "PYTHONPATH": str(ROOT)}
    )
    try:
        async with asyncio.timeout(timeout_s):
            status = await process.wait()
    except TimeoutError:
        process.kill()
        raise BenchError(f"{arguments[0]} took longer than {timeout_s:g} s") from None
    if status != 0:
        raise BenchError(f"{arguments[0]} failed with status {status}")


async def engine_url(gateway: str, admin_key: str) -> str:
    """The address of one engine replica, from the gateway's list of its fleet.

    Raises:
        BenchError: the list could not be read or names none.
    """
    headers = {"Authorization": f"Bearer {admin_key}"}
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{gateway}/admin/fleet", headers=headers) as got,
    ):
        if got.status != 200:
            raise BenchError(f"/admin/fleet answered {got.status}: {(await got.text())[:200]}")
        url = next(_urls(await got.json()), None)
    if url is None:
        raise BenchError("/admin/fleet names no replica with a url")
    return url


def _urls(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("url"), str):
            yield value["url"]
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from _urls(part)


async def wait_for_answer(
    base: str, model: str, *, api_key: str | None = None, timeout_s: float = _ANSWER_TIMEOUT_S
) -> None:
    """Return when a server answers: an ingress learns of a new application a moment after Serve.

    Raises:
        BenchError: it did not in time.
    """
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    body = {"model": model, "messages": [{"role": "user", "content": "ready?"}], "max_tokens": 1}
    last: Any = None
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s), aiohttp.ClientSession(headers=headers) as session:
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.post(f"{base}/v1/chat/completions", json=body) as got:
                        last = got.status, (await got.text())[:200]
                        if got.status == 200:
                            return
                await asyncio.sleep(0.25)
    raise BenchError(f"{base} gives no answer: {last}")


async def bench(config_path: Path, config: TidemillConfig, arguments: list[str], *, time_s: float) -> None:
    """Start, compare, stop.

    Raises:
        BenchError: a part did not start or the comparison failed.
    """
    admin_key = secrets.token_urlsafe(24)
    gateway = f"http://{config.gateway.host}:{config.gateway.port}"
    model = config.default_model
    start_timeout_s = config.local_cluster.start_timeout_s
    async with cluster(config_path, admin_key=admin_key, start_timeout_s=start_timeout_s) as process:
        deploy = ("load_tests.handles.deploy", "--config", str(config_path))
        await run_module(*deploy, environment=cluster_environment(process), timeout_s=_DEPLOY_TIMEOUT_S)
        for prefix in (*_PIPELINES, ""):
            await wait_for_answer(gateway + prefix, model)
        await run_module(
            "load_tests.relay_vs_handles",
            *("--relay-url", gateway),
            *("--handles-url", gateway + _PIPELINES[0], "--handles-optimised-url", gateway + _PIPELINES[1]),
            *(
                "--engine-url",
                await engine_url(gateway, admin_key),
                "--engine-origin",
                "replica of the fleet",
            ),
            *("--model", model, "--config", str(config_path)),
            *arguments,
            environment=dict(os.environ),
            timeout_s=time_s,
        )


def main(arguments: list[str] | None = None) -> None:
    """Run from the command line; what is not known here goes to `relay_vs_handles`."""
    parser = Parser(
        prog="python -m load_tests.bench",
        description="Start a simulated cluster and the pipeline of handles, compare them, stop them. Further "
        "options go to load_tests.relay_vs_handles (see its --help).",
    )
    parser.add_argument("--cluster-config", type=Path, default=CONFIG, help="(%(default)s)")
    parser.add_argument(
        "--time-max",
        type=bounded(float, 10, 3600),
        default=600.0,
        help="seconds for the comparison (%(default)s)",
    )
    options, rest = parser.parse_known_args(arguments)
    path = options.cluster_config.resolve()
    try:
        asyncio.run(bench(path, load_config(path), rest, time_s=options.time_max))
    except (BenchError, aiohttp.ClientError, ValueError) as error:
        sys.exit(f"bench: {error}")


if __name__ == "__main__":
    exit_with(main)
