"""vLLM inside a replica: its own ASGI application over an in-process `AsyncLLM`.

The only module that imports vllm, and only when an engine starts, so that everything else runs without it.
"""

import json
import logging
import os
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NoReturn

from prometheus_client import REGISTRY, CollectorRegistry

from cluster.config.adapters import PoolAdaptersConfig
from cluster.config.models import ModelConfig
from cluster.config.pools import PoolConfig, VllmEngine
from cluster.entities.pool import EngineCounters, Role
from deployments.engine.cores import CoreClaim
from deployments.engine.interface import EngineFailedError, EngineLoad
from deployments.engine.kv_events import KvEvents
from deployments.engine.token_telling import TellsTokens, noted
from deployments.engine.vllm_adapters import VllmAdapters
from deployments.http_port import free_port, own_host

logger = logging.getLogger("tidemill.engine")

_ENGINE_PACKAGE = "deployments.engine"
_CPU_DEFAULTS: Mapping[str, Any] = {
    "dtype": "float32",  # bfloat16 is three times slower without AVX-512
    "enforce_eager": True,  # nothing to capture on a CPU, and compiling costs a minute
}

_NO_DOMAIN = "none.invalid"
"""A host that is nobody's (RFC 2606): to vLLM no domain at all means every one."""


class VllmServer:
    """One vLLM engine (an `Engine`)."""

    def __init__(
        self,
        config: VllmEngine,
        *,
        pool: PoolConfig,
        name: str,
        model: ModelConfig,
        weights: str,
        split: bool,
        traces_endpoint: str = "",
        media_domains: Sequence[str] = (),
    ) -> None:
        """Prepare; nothing is loaded before `start`.

        Args:
            config: the engine's section of the pool.
            pool: the pool, for its role, GPU type and resources.
            name: served model name.
            model: the model's section.
            weights: local folder or Hugging Face id.
            split: whether this model has prefill replicas, so that KV caches are handed over.
            traces_endpoint: where spans go, as OTLP over HTTP; empty for none.
            media_domains: hosts from which media may be fetched.
        """
        self._config = config
        self._pool = pool
        self._name = name
        self._model = model
        self._weights = weights
        self._split = split
        self._traces_endpoint = traces_endpoint
        self._media_domains = list(media_domains) or [_NO_DOMAIN]
        self._stack = AsyncExitStack()
        self._client: Any = None
        self._claim: CoreClaim | None = None
        self._rate = PrefillRate()
        self._adapters: VllmAdapters | None = None
        self._kv_events = KvEvents() if config.kv_events else None

    @property
    def _on_cpu(self) -> bool:
        return self._pool.gpu_type == "cpu"

    async def start(self) -> Any:
        """Load the model and return vLLM's own application.

        Raises:
            EngineFailedError: the engine did not come up.
        """
        self._set_environment()
        # vLLM blocks the event loop while it starts, so only another thread can end a start that hangs.
        alarm = threading.Timer(self._config.start_timeout_s, self._give_up)
        alarm.daemon = True
        alarm.start()
        try:
            return await self._start()
        except EngineFailedError:
            await self.stop()
            raise
        except (SystemExit, Exception) as error:
            await self.stop()
            raise EngineFailedError(f"vLLM did not start: {error}") from error
        finally:
            alarm.cancel()

    def _give_up(self) -> None:
        logger.error("vLLM did not start within %.0f s; giving this process up", self._config.start_timeout_s)
        os._exit(1)

    async def _start(self) -> Any:
        from vllm.entrypoints.launchers.api_server.app_state import init_app_state
        from vllm.entrypoints.launchers.api_server.entry import build_async_engine_client
        from vllm.entrypoints.launchers.app import build_app
        from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
        from vllm.tool_parsers import ToolParserManager
        from vllm.utils.argparse_utils import FlexibleArgumentParser

        parser = make_arg_parser(FlexibleArgumentParser())
        parser.error = _refuse_arguments
        args = parser.parse_args(self.command_line())
        validate_parsed_serve_args(args)
        if args.tool_parser_plugin:
            ToolParserManager.import_tool_parser(args.tool_parser_plugin)
        self._client = await self._stack.enter_async_context(build_async_engine_client(args))
        if self._split and self._claim is not None and self._claim.cores:
            await self._client.collective_rpc("settle_on_cores", args=(list(self._claim.cores),))
        if self._kv_events is not None:
            self._kv_events.start()
        self._client.generate = noted(self._client.generate)
        tasks = await self._client.get_supported_tasks()
        app = build_app(args, tasks, self._client.model_config)
        await init_app_state(self._client, app.state, args, tasks)
        if self._client.vllm_config.lora_config is not None:
            self._adapters = VllmAdapters(self._client, app.state.openai_serving_models)
            if self._pool.adapters is not None:
                await self._adapters.quicken()
        return TellsTokens(app)

    @property
    def adapters(self) -> VllmAdapters | None:
        """Its slots for LoRA adapters, whether or not a pager looks after them."""
        return self._adapters

    def command_line(self) -> list[str]:
        """The arguments vLLM's server would be started with."""
        args: dict[str, Any] = {
            **(_CPU_DEFAULTS if self._on_cpu else {}),
            "served_model_name": self._name,
            "disable_uvicorn_access_log": True,
            "enable_prompt_tokens_details": True,
            "allowed_media_domains": self._media_domains,
        }
        if self._model.tool_call_parser:
            args |= {"enable_auto_tool_choice": True, "tool_call_parser": self._model.tool_call_parser}
        if self._model.reasoning_parser:
            args["reasoning_parser"] = self._model.reasoning_parser
        if self._split:
            args["kv_transfer_config"] = self._kv_transfer()
        if self._traces_endpoint:
            args["otlp_traces_endpoint"] = self._traces_endpoint
        if self._kv_events is not None:
            args["kv_events_config"] = self._kv_events.engine_arguments
        if self._pool.adapters is not None:
            args |= _lora_arguments(self._pool.adapters)
        if self._on_cpu:
            args |= self._cpu_processes()
        args |= self._config.args
        return ["--model", self._weights, *_flags(args)]

    def _cpu_processes(self) -> dict[str, Any]:
        """Hooks of vLLM's own that make its processes wait asleep (docs/adr/0009)."""
        extension = (
            "nixl_worker_extension.NixlCpuWorkerExtension"
            if self._split
            else "worker_extension.CpuWorkerExtension"
        )
        return {
            "distributed_executor_backend": f"{_ENGINE_PACKAGE}.cpu_patience.PatientExecutor",
            "worker_extension_cls": f"{_ENGINE_PACKAGE}.{extension}",
        }

    def _kv_transfer(self) -> dict[str, Any]:
        return {
            "kv_connector": "NixlConnector",
            "kv_role": "kv_producer" if self._pool.role is Role.PREFILL else "kv_consumer",
            "kv_buffer_device": "cpu" if self._on_cpu else "cuda",
            # A ticket whose blocks are gone costs the prompt's computation again, never the request.
            "kv_load_failure_policy": "recompute",
            "kv_connector_extra_config": {"kv_lease_duration": self._config.kv_lease_s},
        }

    def _set_environment(self) -> None:
        host = own_host()
        settings = {
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",  # out of the allowed domains, that is
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",  # vLLM's default is gRPC
            "OTEL_SERVICE_NAME": f"tidemill-{self._pool.role.value}",
            "VLLM_NIXL_SIDE_CHANNEL_HOST": host,
            "VLLM_NIXL_SIDE_CHANNEL_PORT": str(free_port(host)),
        }
        if Path(self._weights).is_dir():
            settings["HF_HUB_OFFLINE"] = "1"
        if self._on_cpu:
            # The first request for log-probabilities would compile for 40 s, and needs a C++ compiler.
            settings["TORCHDYNAMO_DISABLE"] = "1"
            self._claim = CoreClaim(max(1, int(self._pool.resources.cpus)))
            settings["OMP_WAIT_POLICY"] = "passive"
            if self._claim.cores:
                settings["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, self._claim.cores))
                settings["OMP_NUM_THREADS"] = str(len(self._claim.cores))
            else:
                logger.warning("no core is free for this engine: it shares, and will be slow")
        os.environ.update(settings | self._config.env)

    def load(self) -> EngineLoad:
        """How busy the engine is, from vLLM's own gauges in this process."""
        sums = metric_sums(REGISTRY)
        return EngineLoad(
            requests_running=int(sums["vllm:num_requests_running"]),
            requests_waiting=int(sums["vllm:num_requests_waiting"]),
            kv_cache_usage=min(max(sums["vllm:kv_cache_usage_perc"], 0.0), 1.0),
            prefill_tokens_per_s=self._rate.observe(
                sums["vllm:request_prefill_kv_computed_tokens_sum"],
                sums["vllm:request_prefill_kv_computed_tokens_count"],
                sums["vllm:request_prefill_time_seconds_sum"],
            ),
            counters=EngineCounters(
                prefill_tokens=int(sums["vllm:request_prefill_kv_computed_tokens_sum"]),
                prefill_s=sums["vllm:request_prefill_time_seconds_sum"],
                output_tokens=int(sums["vllm:generation_tokens_total"]),
                token_gaps=int(sums["vllm:inter_token_latency_seconds_count"]),
                token_gaps_s=sums["vllm:inter_token_latency_seconds_sum"],
            ),
            prefix_cache=None if self._kv_events is None else self._kv_events.report,
        )

    def failure(self) -> str | None:
        """Why the engine is dead; None while it lives."""
        if self._client is not None and self._client.errored:
            return f"vLLM's engine core died: {self._client.dead_error}"
        return None

    async def stop(self) -> None:
        """End the engine core and give its cores back."""
        self._client = None
        if self._kv_events is not None:
            await self._kv_events.stop()
        await self._stack.aclose()
        if self._claim is not None:
            self._claim.release()


def _lora_arguments(adapters: PoolAdaptersConfig) -> dict[str, Any]:
    """As many copies as slots: what left its slot the pager keeps itself (`adapter_copies`)."""
    return {
        "enable_lora": True,
        "max_loras": adapters.slots,
        "max_cpu_loras": adapters.slots,
        "max_lora_rank": adapters.rank_max,
        "worker_extension_cls": f"{_ENGINE_PACKAGE}.adapter_copies.AdapterCopies",
    }


def _refuse_arguments(message: str) -> NoReturn:
    """In place of argparse's exit, which would lose what is wrong."""
    raise EngineFailedError(f"pools.*.engine.args: {message}")


_RATE_WEIGHT = 0.3
"""Of the latest interval."""
_LONG_PROMPT_TOKENS = 64


class PrefillRate:
    """Exponentially weighted prefill rate from three growing sums: tokens computed, requests, seconds spent.

    Short prompts (health checks among them) say how long a step takes, not how fast prompts are computed,
    so an interval whose requests computed few tokens each is left out.
    """

    def __init__(self) -> None:
        self._last = (0.0, 0.0, 0.0)
        self._rate: float | None = None

    def observe(self, tokens: float, requests: float, seconds: float) -> float | None:
        """Take the sums so far; the rate in tokens per second, None before the first long prefill."""
        more_tokens, more_requests, more_s = (
            now - before for now, before in zip((tokens, requests, seconds), self._last, strict=True)
        )
        if more_requests <= 0:
            return self._rate
        self._last = (tokens, requests, seconds)
        if more_tokens / more_requests >= _LONG_PROMPT_TOKENS and more_s > 0:
            rate = more_tokens / more_s
            self._rate = rate if self._rate is None else self._rate + _RATE_WEIGHT * (rate - self._rate)
        return self._rate


def metric_sums(registry: CollectorRegistry) -> defaultdict[str, float]:
    """Every sample of a registry by its name, summed over labels; 0 for what does not exist (yet)."""
    sums: defaultdict[str, float] = defaultdict(float)
    for metric in registry.collect():
        for sample in metric.samples:
            if not sample.name.endswith("_bucket"):
                sums[sample.name] += sample.value
    return sums


def _flags(args: Mapping[str, Any]) -> list[str]:
    flags: list[str] = []
    for name, value in args.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            flags.append(flag)
        elif value is False:
            flags.append(f"--no-{flag[2:]}")
        elif isinstance(value, dict):
            flags += [flag, json.dumps(value)]
        elif isinstance(value, list):
            flags += [flag, *map(str, value)]
        elif value is not None:
            flags += [flag, str(value)]
    return flags
