"""An engine without a model: vLLM's HTTP surface, latencies from `cluster.performance`, text from a hash.

It exists for what two cores cannot hold (fleets of fifty replicas) and for measuring everything around the
engine: it must itself be faster than any router in front of it. Never a source of answers.
Alone: `python -m deployments.engine.simulated --port 0 --model sim`.
"""

import argparse
import asyncio
import functools
import socket
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace
from typing import Any

import orjson
import uvicorn

from cluster.config.pools import SimulatedEngine
from cluster.entities.pool import Role
from cluster.entities.workload import Surface
from deployments.engine.interface import EngineLoad
from deployments.engine.simulated_adapters import SimulatedAdapters
from deployments.engine.simulated_answers import Draft, events_of, whole
from deployments.engine.simulated_batch import Batch, BatchFullError, Sequence
from deployments.engine.simulated_http import (
    EVENT_STREAM,
    Answer,
    Receive,
    Scope,
    Send,
    cancel_on_disconnect,
    error_answer,
    read_body,
    request_id_of,
    send_answer,
)
from deployments.engine.simulated_requests import (
    Ask,
    RequestError,
    bad_request,
    bytes_of,
    parse_ask,
    parse_body,
    prompts_of,
    token_ids,
)
from deployments.engine.simulated_tickets import TICKET_PATH, TicketOffice, pull
from deployments.engine.token_telling import asks_for_tokens

_SETTINGS = tuple(name for name in SimulatedEngine.model_fields if name != "kind")


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedLimits:
    """Bounds of one simulated engine."""

    running_max: int = 256
    """Sequences in the batch (vLLM's max_num_seqs); more wait."""
    waiting_max: int = 4096
    """Sequences that may wait; one more gets 503."""
    sequences_per_request_max: int = 128
    """Prompts times `n`; more gets 400."""
    body_bytes_max: int = 8 * 1024 * 1024
    """A larger request body gets 413."""
    tickets_max: int = 4096
    """Prompts whose KV cache waits to be pulled; one more pushes the oldest out."""
    kv_lease_s: float = 30.0
    """How long such a prompt is kept."""
    kv_tokens_max: int = 1_000_000
    """KV cache that counts as full in the reported usage."""
    transfer_base_s: float = 0.002
    """Time to pull the KV cache of a short prompt."""
    transfer_tokens_per_s: float = 1_000_000.0
    """Rate at which a long prompt's KV cache is pulled."""


class SimulatedApp:
    """One engine as an ASGI application (`app`)."""

    def __init__(
        self,
        config: SimulatedEngine,
        *,
        model: str,
        role: Role,
        limits: SimulatedLimits | None = None,
        adapter_slots: int = 0,
    ) -> None:
        self._config = config
        self._model = model
        self._role = role
        self._limits = limits or SimulatedLimits()
        self._batch = Batch(
            config, running_max=self._limits.running_max, waiting_max=self._limits.waiting_max
        )
        self.adapters = SimulatedAdapters(config, self._batch, slots=adapter_slots) if adapter_slots else None
        """Its LoRA slots, if it has any."""
        self._tickets = TicketOffice(
            engine_id=uuid.uuid4().hex, tickets_max=self._limits.tickets_max, lease_s=self._limits.kv_lease_s
        )
        self._requests = 0
        self._gets: dict[str, Callable[[], Answer]] = {
            "/v1/models": self._models,
            "/health": Answer,
            "/load": lambda: Answer(body=orjson.dumps({"server_load": self._requests})),
            "/metrics": self._metrics,
        }

    @property
    def app(self) -> "SimulatedApp":
        """The ASGI application."""
        # The object itself: uvicorn takes a bound method for an application of the old ASGI 2.
        return self

    def load(self) -> EngineLoad:
        """How busy the engine is now."""
        held = self._batch.context_tokens + self._tickets.tokens_held(time.monotonic())
        return EngineLoad(
            requests_running=self._batch.running,
            requests_waiting=self._batch.waiting,
            kv_cache_usage=min(1.0, held / self._limits.kv_tokens_max),
            prefill_tokens_per_s=self._config.prefill_tokens_per_s
            if self._batch.prompt_tokens_total
            else None,
            counters=self._batch.counters,
        )

    async def aclose(self) -> None:
        """Stop counting out tokens."""
        await self._batch.aclose()

    async def answer(
        self,
        path: str,
        raw: bytes,
        *,
        request_id: str = "",
        address: tuple[str, int] = ("127.0.0.1", 0),
        tells_tokens: bool = False,
    ) -> Answer:
        """Answer one POST without HTTP around it.

        Args:
            path: for example `/v1/chat/completions`.
            raw: the request's body.
            request_id: becomes part of the answer's id; empty makes one up.
            address: where other engines reach this one, for KV tickets.
            tells_tokens: whether the tokens of a stream are told between its events.
        """
        try:
            return await self._answer(
                path, raw, request_id=request_id, address=address, tells_tokens=tells_tokens
            )
        except RequestError as error:
            return error_answer(path, error)
        except BatchFullError:
            message = f"{self._limits.waiting_max} sequences are waiting already."
            return error_answer(path, RequestError(503, message, "ServiceUnavailableError"))

    async def _answer(
        self, path: str, raw: bytes, *, request_id: str, address: tuple[str, int], tells_tokens: bool
    ) -> Answer:
        if path.startswith(TICKET_PATH):
            found = self._tickets.redeem(path.removeprefix(TICKET_PATH), now_s=time.monotonic())
            return Answer(status=200 if found else 404, body=b"{}")
        try:
            surface = Surface(path)
        except ValueError:
            raise RequestError(404, "Not Found", "Not Found") from None
        body = parse_body(raw)
        asked = self._model_of(body)
        if not surface.generates:
            return Answer(body=orjson.dumps(self._without_tokens(surface, body)))
        ask = parse_ask(
            surface, body, config=self._config, sequences_max=self._limits.sequences_per_request_max
        )
        if surface in {Surface.MESSAGES, Surface.RESPONSES}:
            ask = replace(ask, include_token_ids=tells_tokens)
        if self.adapters is not None and asked != self._model:
            ask = ask.by_adapter(asked)
            self.adapters.used(asked)
        prefilled = await self._pulled(ask)
        draft = Draft(ask, model=asked, request_id=request_id or uuid.uuid4().hex, created_at_s=time.time())
        changed = asyncio.Event()
        sequences = [
            Sequence(
                prompt_tokens=prompt.tokens,
                output_tokens=ask.output_tokens,
                prefilled=prefilled,
                watched=ask.stream,
                changed=changed,
            )
            for prompt in ask.prompts
            for _ in range(ask.choices_per_prompt)
        ]
        self._batch.add(sequences)
        if ask.stream:
            stream = self._stream(draft, sequences, changed)
            release = functools.partial(self._release, sequences)
            return Answer(content_type=EVENT_STREAM, stream=stream, release=release)
        await self._finish(sequences, changed)
        return Answer(body=orjson.dumps(whole(draft, self._ticket(ask, address))))

    def _model_of(self, body: dict[str, Any]) -> str:
        """The base model or an adapter in a slot."""
        asked = body.get("model") or self._model
        adapters = self.adapters.names if self.adapters is not None else frozenset()
        if asked != self._model and asked not in adapters:
            message = f"The model `{asked}` does not exist. Valid aliases: {self._model}."
            raise RequestError(404, message, "NotFoundError", "model")
        return str(asked)

    async def _pulled(self, ask: Ask) -> bool:
        """Whether the prompt's KV cache came from the engine that the request names."""
        if not ask.kv_transfer_params.get("do_remote_prefill") or self._role is Role.PREFILL:
            return False
        if not await pull(ask.kv_transfer_params, own=self._tickets, now_s=time.monotonic()):
            return False
        limits = self._limits
        await asyncio.sleep(limits.transfer_base_s + ask.prompt_tokens / limits.transfer_tokens_per_s)
        return True

    def _ticket(self, ask: Ask, address: tuple[str, int]) -> dict[str, Any] | None:
        if not ask.kv_transfer_params.get("do_remote_decode") or self._role is Role.DECODE:
            return None
        return self._tickets.issue(
            uuid.uuid4().hex, tokens=ask.prompt_tokens, address=address, now_s=time.monotonic()
        )

    async def _finish(self, sequences: list[Sequence], changed: asyncio.Event) -> None:
        try:
            while not all(sequence.finished for sequence in sequences):
                await changed.wait()
                changed.clear()
        finally:
            self._release(sequences)

    async def _stream(
        self, draft: Draft, sequences: list[Sequence], changed: asyncio.Event
    ) -> AsyncGenerator[bytes, None]:
        events = events_of(draft)
        sent = [0] * len(sequences)
        parts = [events.opening()]
        try:
            while True:
                await changed.wait()
                changed.clear()
                for choice, sequence in enumerate(sequences):
                    if sequence.produced > sent[choice]:
                        parts.append(events.tokens(choice, sent[choice], sequence.produced))
                        sent[choice] = sequence.produced
                if all(sequence.finished for sequence in sequences):
                    parts.append(events.closing())
                    yield b"".join(parts)
                    return
                yield b"".join(parts)
                parts.clear()
        finally:
            self._release(sequences)

    def _release(self, sequences: list[Sequence]) -> None:
        for sequence in sequences:
            if not sequence.finished:
                self._batch.abort(sequence)

    def _without_tokens(self, surface: Surface, body: dict[str, Any]) -> dict[str, Any]:
        if surface is Surface.DETOKENIZE:
            tokens = body.get("tokens")
            if not isinstance(tokens, list) or not all(
                isinstance(token, int) and token >= 0 for token in tokens
            ):
                raise bad_request("tokens: expected a list of token ids", "tokens")
            return {"prompt": bytes_of(tokens).decode("utf-8", "replace")}
        if surface is Surface.EMBEDDINGS:
            raise RequestError(404, "Not Found", "Not Found")
        prompt = prompts_of(surface, body)[0]
        if surface is Surface.COUNT_TOKENS:
            return {"input_tokens": prompt.tokens}
        tokens = token_ids(prompt.content)
        strings = [bytes_of([token]).decode("utf-8", "replace") for token in tokens]
        return {
            "count": len(tokens),
            "max_model_len": self._config.max_model_len,
            "tokens": tokens,
            "token_strs": strings if body.get("return_token_strs") else None,
        }

    def _models(self) -> Answer:
        card = {"id": self._model, "object": "model", "created": int(time.time()), "owned_by": "vllm"}
        card |= {"root": self._model, "parent": None, "max_model_len": self._config.max_model_len}
        return Answer(body=orjson.dumps({"object": "list", "data": [{**card, "permission": []}]}))

    def _metrics(self) -> Answer:
        load = self.load()
        rows = (
            ("num_requests_running", "gauge", load.requests_running),
            ("num_requests_waiting", "gauge", load.requests_waiting),
            ("kv_cache_usage_perc", "gauge", load.kv_cache_usage),
            ("prompt_tokens_total", "counter", self._batch.prompt_tokens_total),
            ("generation_tokens_total", "counter", self._batch.output_tokens_total),
        )
        text = "".join(
            f'# TYPE vllm:{name} {kind}\nvllm:{name}{{engine="0",model_name="{self._model}"}} {value}\n'
            for name, kind, value in rows
        )
        return Answer(content_type=b"text/plain; version=0.0.4; charset=utf-8", body=text.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http" and scope["method"] == "POST":
            await self._post(scope, receive, send)
        elif scope["type"] == "http":
            get = self._gets.get(scope["path"])
            missing = error_answer(scope["path"], RequestError(404, "Not Found", "Not Found"))
            await send_answer(get() if get else missing, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.aclose()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _post(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw = await read_body(receive, self._limits.body_bytes_max)
        if raw is None:
            message = f"The request body is larger than {self._limits.body_bytes_max} bytes."
            return await send_answer(
                error_answer(scope["path"], RequestError(413, message, "Request Entity Too Large")), send
            )
        request = asyncio.current_task()
        assert request is not None  # noqa: S101 - a coroutine that runs has a task
        watch = asyncio.create_task(cancel_on_disconnect(receive, request))
        self._requests += 1
        try:
            server = scope.get("server") or ("127.0.0.1", 0)
            answer = await self.answer(
                scope["path"],
                raw,
                request_id=request_id_of(scope),
                address=(server[0], server[1] or 0),
                tells_tokens=asks_for_tokens(scope),
            )
            await send_answer(answer, send)
        except asyncio.CancelledError:
            if not watch.done():
                raise
            # The client left; its sequences were aborted on the way here, and there is nobody to tell.
            request.uncancel()
        finally:
            self._requests -= 1
            watch.cancel()
        return None


def main(arguments: list[str] | None = None) -> None:
    """Serve one engine until interrupted; prints its address first."""
    options = vars(_parser().parse_args(arguments))
    config = SimulatedEngine(**{name: options[name] for name in _SETTINGS})
    app = SimulatedApp(config, model=options["model"], role=Role(options["role"])).app
    with socket.create_server((options["host"], options["port"]), backlog=2048) as listener:
        print(f"simulated engine: http://{options['host']}:{listener.getsockname()[1]}", flush=True)
        time.sleep(config.start_s)
        server = uvicorn.Config(app, access_log=False, log_level="warning", timeout_keep_alive=75)
        uvicorn.Server(server).run(sockets=[listener])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="An engine without a model, with vLLM's HTTP surface.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one (%(default)s)")
    parser.add_argument("--model", default="sim", help="name of the served model (%(default)s)")
    parser.add_argument("--role", default=Role.COMBINED, choices=[role.value for role in Role])
    for name in _SETTINGS:
        field = SimulatedEngine.model_fields[name]
        flag = "--" + name.replace("_", "-")
        text = f"{field.description} (%(default)s)"
        parser.add_argument(flag, type=field.annotation, default=field.default, help=text)  # type: ignore[arg-type]
    return parser


if __name__ == "__main__":
    main()
