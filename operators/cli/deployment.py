"""Runs the deployer and waits for it, and probes the gateway until a model answers."""

import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import httpx

from cluster.config import TidemillConfig
from operators.cli.console import CliError
from operators.cli.gateway_client import refusal
from operators.local_cluster.cluster import SOURCE_ROOT

_POLL_S = 0.5
_PROBE_PAUSE_S = 0.5
_PROBE_TELL_S = 30.0
_PROBE_TIMEOUT_S = 120.0
_ERROR_CHARACTERS_MAX = 400
_WILDCARDS = frozenset({"0.0.0.0", "::", ""})  # noqa: S104 - recognised, not bound


class Ground(Protocol):
    """The Ray cluster that is deployed on: one of our own, or the one that a job runs on."""

    address: str
    """Where drivers connect."""
    environment: dict[str, str]
    """Of drivers."""
    head_log: Path

    def is_alive(self) -> bool:
        """Whether its head runs, as far as can be told."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """What ends the waiting: the cluster's death or the end of patience."""

    cluster: Ground
    deadline_at_s: float

    def check(self, waiting_for: str) -> None:
        """Raise CliError if there is nothing left to wait for."""
        if not self.cluster.is_alive():
            raise CliError(f"the Ray head ended on its own; its log is {self.cluster.head_log}")
        if time.monotonic() > self.deadline_at_s:
            raise CliError(
                f"gave up waiting for {waiting_for}; raise local_cluster.start_timeout_s if it is slow"
            )


def gateway_base_url(config: TidemillConfig) -> str:
    """Where clients on this machine reach the gateway."""
    host = "127.0.0.1" if config.gateway.host in _WILDCARDS else config.gateway.host
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{config.gateway.port}"


def deploy_applications(
    config: TidemillConfig,
    *,
    watch: Watch,
    state_dir: Path,
    weights: dict[str, str],
    admin_key: str,
    progress: Callable[[str], None],
) -> None:
    """Deploy everything; returns when every application runs.

    Raises:
        CliError: an application failed, Ray died, or it took too long.
    """
    order = {
        "config": config.model_dump(mode="json"),
        "cluster_address": watch.cluster.address,
        "state_dir": str(state_dir),
        "weights": weights,
        "admin_key": admin_key,
    }
    run_deployer("operators.cli.deployer", order, watch=watch, state_dir=state_dir, progress=progress)


def run_deployer(
    module: str,
    order: dict[str, Any],
    *,
    watch: Watch,
    state_dir: Path,
    progress: Callable[[str], None],
) -> Any:
    """Run a deployer in a process of its own; what it says when it is done.

    Args:
        module: a module that takes an order on standard input and tells events on standard output.
        order: for it.
        watch: ends the waiting.
        state_dir: where its log goes.
        progress: told of every step.

    Raises:
        CliError: it failed, Ray died, or it took too long.
    """
    with (state_dir / "deploy.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", module],
            env=watch.cluster.environment,
            cwd=SOURCE_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
    try:
        assert process.stdin is not None  # noqa: S101 - both were asked for as pipes
        assert process.stdout is not None  # noqa: S101
        process.stdin.write(json.dumps(order).encode())
        process.stdin.close()
        return _follow(process.stdout, watch, progress)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def _follow(stream: IO[bytes], watch: Watch, progress: Callable[[str], None]) -> Any:
    """Read the deployer's events until it is done; what it said last."""
    pending = b""
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while True:
            watch.check("the applications to run")
            if not selector.select(_POLL_S):
                continue
            chunk = os.read(stream.fileno(), 65536)
            if not chunk:
                raise CliError("the deployment ended without a word; see deploy.log in the state folder")
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                event = json.loads(line)
                if "error" in event:
                    raise CliError(f"deployment failed: {event['error'][:_ERROR_CHARACTERS_MAX]}")
                if "done" in event:
                    return event["done"]
                progress(event["progress"])


def probe(
    model: str, *, base_url: str, watch: Watch, progress: Callable[[str], None], key: str | None = None
) -> None:
    """Ask a model for a few tokens until it answers; tell now and then what it answered instead.

    Args:
        model: which.
        base_url: of the gateway.
        watch: ends the waiting.
        progress: is told what came instead of an answer.
        key: the operator's, where the gateway asks for one.

    Raises:
        CliError: it did not in time; carries the last answer.
    """
    body = {"model": model, "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 4}
    last = "no answer yet"
    told_at_s = time.monotonic()
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    with httpx.Client(timeout=_PROBE_TIMEOUT_S, headers=headers, trust_env=False) as client:
        while True:
            watch.check(f"{model} to answer ({last})")
            try:
                response = client.post(f"{base_url}/v1/chat/completions", json=body)
            except httpx.HTTPError as error:
                last = f"{type(error).__name__}: {error}"
            else:
                if response.status_code == 200:
                    return
                last = refusal(response)
            if time.monotonic() - told_at_s > _PROBE_TELL_S:
                told_at_s = time.monotonic()
                progress(f"not yet: {last}")
            time.sleep(_PROBE_PAUSE_S)
