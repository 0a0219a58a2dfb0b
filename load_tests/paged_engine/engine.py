"""One engine with LoRA adapters as a process of its own, without Ray: what the end-to-end measurement drives.

`pager` is the engine as a replica runs it. `lru` is the same engine as vLLM ships it: every adapter is listed
in `--lora-modules`, and vLLM loads one within a step when a request that is scheduled needs it. `lru_host` is
that with room in memory for all adapters (`--max-cpu-loras`), so that none is read twice. `lru_quick` is that
with the project's own slots (`deployments.engine.adapter_slots`), so that only the pager is missing.
Prints one line of JSON when it serves: {"url": …}.
"""

import argparse
import asyncio
import json
import os
from pathlib import Path
from typing import Any

import orjson

from cluster.config import TidemillConfig, load_config
from cluster.config.pools import VllmEngine
from deployments.engine.paging import paged
from deployments.engine.vllm import VllmServer
from deployments.engine.weights import default_cache_dir, resolve_weights
from deployments.http_port import HttpPort

REPORT_PATH = "/report"
KINDS = ("lru", "lru_host", "lru_quick", "pager")
_WATCH_S = 0.2


class _WithReport:
    """The engine's own account of its loads, for both kinds alike."""

    def __init__(self, app: Any, server: VllmServer) -> None:
        self._app = app
        self._server = server

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one ASGI scope."""
        if scope["type"] != "http" or scope["path"] != REPORT_PATH:
            await self._app(scope, receive, send)
            return
        assert self._server.adapters is not None  # noqa: S101 - LoRA is on
        found = await self._server.adapters.report()
        body = orjson.dumps(
            {
                "held": sorted(found.held),
                "loads": found.loads,
                "load_s": found.load_s,
                "stall_s": found.stall_s,
                "stream_stall_s": found.stream_stall_s,
            }
        )
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _plain(config: TidemillConfig, pool_name: str, *, all_in_memory: bool) -> TidemillConfig:
    """The same pool with vLLM's own handling of adapters; their sources must be folders."""
    pool = config.pools[pool_name]
    limits = pool.adapters
    assert isinstance(pool.engine, VllmEngine)  # noqa: S101 - it is measured with vLLM
    assert limits is not None  # noqa: S101 - it holds adapters
    modules = [
        json.dumps({"name": f"{pool.model}:{name}", "path": adapter.source})
        for name, adapter in config.adapters.catalogue.items()
    ]
    lora: dict[str, Any] = {
        "enable_lora": True,
        "max_loras": limits.slots,
        "max_lora_rank": limits.rank_max,
        "lora_modules": modules,
        "max_cpu_loras": len(modules) if all_in_memory else limits.slots,
    }
    engine = pool.engine.model_copy(update={"args": {**pool.engine.args, **lora}})
    plain = pool.model_copy(update={"engine": engine, "adapters": None})
    return config.model_copy(update={"pools": {**config.pools, pool_name: plain}})


async def serve(config: TidemillConfig, *, kind: str, state_dir: str) -> None:
    """Serve until the engine dies; then end like a replica: at once."""
    (pool_name,) = config.pools
    if kind != "pager":
        config = _plain(config, pool_name, all_in_memory=kind != "lru")
    pool = config.pools[pool_name]
    assert isinstance(pool.engine, VllmEngine)  # noqa: S101 - it is measured with vLLM
    model = config.models[pool.model]
    weights = resolve_weights(model.source, default_cache_dir(os.environ), lambda _: None)
    server = VllmServer(
        pool.engine, pool=pool, name=pool.model, model=model, weights=str(weights), split=False
    )
    app = await server.start()
    assert server.adapters is not None  # noqa: S101 - LoRA is on
    await server.adapters.report()  # counts from here on
    if kind == "lru_quick":
        await server.adapters.quicken()
    if kind == "pager":
        found = await paged(app, server.adapters, config=config, pool_name=pool_name, state_dir=state_dir)
        app = found.app
    port = HttpPort(_WithReport(app, server), host="127.0.0.1")
    await port.start()
    print(json.dumps({"url": port.url}), flush=True)
    while server.failure() is None:  # noqa: ASYNC110 - vLLM offers nothing to wait for
        await asyncio.sleep(_WATCH_S)
    os._exit(1)


def main() -> None:
    """Serve the one pool of a configuration."""
    parser = argparse.ArgumentParser(description="One engine with LoRA adapters, without Ray.")
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("config", type=Path)
    parser.add_argument("--state", default="", help="where the pager keeps what it learns")
    options = parser.parse_args()
    os.environ.setdefault("TIDEMILL_HOST", "127.0.0.1")
    asyncio.run(serve(load_config(options.config), kind=options.kind, state_dir=options.state))


if __name__ == "__main__":
    main()
