"""The other way to build it, to compare with: tokens pass through Ray Serve's deployment handles.

Same ingress, same engine code, same bytes out; but the engines have no HTTP port. The ingress deployment
calls them over `DeploymentHandle.options(stream=True)`, as Ray's own LLM serving does. Serve has two ways of
doing that: its default carries each token as a Ray object and runs user code in a thread of its own;
`RAY_SERVE_THROUGHPUT_OPTIMIZED=1` carries it over gRPC and saves the thread. `load_tests.handles.deploy` adds
a pipeline of each kind to a running cluster.
"""

from collections.abc import AsyncGenerator
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from ray import serve
from ray.serve.handle import DeploymentHandle

from cluster.config.pools import SimulatedEngine
from cluster.entities.pool import Role
from deployments.engine.simulated import SimulatedApp

_ONGOING_MAX = 1024

_http = FastAPI()


@serve.deployment(max_ongoing_requests=_ONGOING_MAX)
class HandleEngine:
    """A simulated engine that answers method calls."""

    def __init__(self, config: SimulatedEngine, model: str) -> None:
        self._app = SimulatedApp(config, model=model, role=Role.COMBINED)

    async def stream(self, path: str, raw: bytes) -> AsyncGenerator[bytes, None]:
        """The events of a streamed answer, one token each."""
        answer = await self._app.answer(path, raw)
        if answer.stream is None:
            raise RuntimeError(answer.body.decode())
        async for chunk in answer.stream:
            yield chunk

    async def whole(self, path: str, raw: bytes) -> bytes:
        """The body of an answer that is not streamed."""
        return (await self._app.answer(path, raw)).body


@serve.deployment(max_ongoing_requests=_ONGOING_MAX)
@serve.ingress(_http)
class HandleIngress:
    """Reads the request and passes on what the engine's generator yields."""

    def __init__(self, engine: DeploymentHandle, *, optimised: bool) -> None:
        self._engine = engine.options(_by_reference=not optimised)
        self._streaming = engine.options(stream=True, _by_reference=not optimised)

    @_http.post("/v1/{rest:path}")
    async def relay(self, rest: str, request: Request) -> Response:
        """One generating request."""
        raw = await request.body()
        path = f"/v1/{rest}"
        if (await request.json()).get("stream"):
            chunks = self._streaming.stream.remote(path, raw)
            return StreamingResponse(chunks, media_type="text/event-stream")
        return Response(await self._engine.whole.remote(path, raw), media_type="application/json")


def application(config: SimulatedEngine, *, model: str, replicas: int, cpus: float, optimised: bool) -> Any:
    """The pipeline: one ingress replica, as there is one router, and as many engines as the pool has."""
    settings = {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1" if optimised else "0"}
    options = {"num_cpus": cpus, "runtime_env": {"env_vars": settings}}
    engine_deployment: Any = HandleEngine
    ingress_deployment: Any = HandleIngress
    engine = engine_deployment.options(num_replicas=replicas, ray_actor_options=options).bind(config, model)
    return ingress_deployment.options(ray_actor_options=options).bind(engine, optimised=optimised)
