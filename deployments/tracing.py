"""OpenTelemetry spans of requests, across the processes that a request passes.

A step that is not recorded costs one call that does nothing: OpenTelemetry itself is imported only where the
configuration names an endpoint. Which trace a request belongs to travels as W3C `traceparent`
(https://www.w3.org/TR/trace-context/), from the client to the engines.
"""

import asyncio
import re
from collections.abc import Mapping
from typing import Any

from cluster.config.observability import TracingConfig

Attributes = Mapping[str, str | int | float | bool | None]
"""By OpenTelemetry's names; those that are None are left out."""
Carrier = Mapping[str, str]

_HEADERS = ("traceparent", "tracestate")
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
_TRACESTATE_CHARS_MAX = 512
_FLUSH_PERIOD_MS = 1000.0


class Step:
    """A part of a request that nobody records: it passes on what the caller sent and nothing else."""

    def __init__(self, headers: Carrier) -> None:
        self.headers = headers
        """What the next process gets, so that its spans come under this one."""

    trace_id: str | None = None

    def step(self, name: str, attributes: Attributes) -> "Step":  # noqa: ARG002 - nobody records it
        """Begin a part of this part that another process does; the caller ends it."""
        return self

    def note(self, attributes: Attributes) -> None:
        """Add attributes."""

    def end(self, *, error: str | None = None) -> None:
        """It is over, well or with an error."""


_UNTRACED = Step({})


class Tracing:
    """The tracer of one process, while tracing is off."""

    def begin(self, name: str, headers: Carrier) -> Step:  # noqa: ARG002 - nobody records it
        """The part of a request that this process does; the caller ends it.

        Args:
            name: of the span.
            headers: the request's, by lower-case name.
        """
        passed = _passed_on(headers)
        return Step(passed) if passed else _UNTRACED

    async def close(self) -> None:
        """Send what waits."""


class _OtlpStep(Step):
    """A recorded part."""

    def __init__(self, otlp: "_OtlpTracing", span: Any) -> None:
        self._otlp = otlp
        self._span = span
        super().__init__(otlp.carrier(span))
        context = span.get_span_context()
        self.trace_id = f"{context.trace_id:032x}"

    def step(self, name: str, attributes: Attributes) -> Step:
        child = _OtlpStep(self._otlp, self._otlp.start_span(name, parent=self._span))
        child.note(attributes)
        return child

    def note(self, attributes: Attributes) -> None:
        for name, value in attributes.items():
            if value is not None:
                self._span.set_attribute(name, value)

    def end(self, *, error: str | None = None) -> None:
        if error is not None:
            self._span.set_status(self._otlp.error_status(error))
        self._span.end()


class _OtlpTracing(Tracing):
    """Records spans and sends them in the background, in bounded batches."""

    def __init__(self, config: TracingConfig, *, service: str, instance: str) -> None:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._trace = trace
        self._propagator = TraceContextTextMapPropagator()
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(config.sample_ratio)),
            resource=Resource.create({"service.name": service, "service.instance.id": instance}),
            shutdown_on_exit=False,
        )
        exporter = OTLPSpanExporter(endpoint=config.endpoint, timeout=config.export_timeout_s)
        processor = BatchSpanProcessor(
            exporter,
            max_queue_size=config.spans_queued_max,
            max_export_batch_size=min(512, config.spans_queued_max),
            schedule_delay_millis=_FLUSH_PERIOD_MS,
        )
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("tidemill")

    def begin(self, name: str, headers: Carrier) -> Step:
        context = self._propagator.extract(_passed_on(headers))
        span = self._tracer.start_span(name, context=context, kind=self._trace.SpanKind.SERVER)
        return _OtlpStep(self, span)

    def start_span(self, name: str, *, parent: Any) -> Any:
        """A span under another one, for what another process does."""
        context = self._trace.set_span_in_context(parent)
        return self._tracer.start_span(name, context=context, kind=self._trace.SpanKind.CLIENT)

    def carrier(self, span: Any) -> Carrier:
        """The headers that name a span as the parent."""
        headers: dict[str, str] = {}
        self._propagator.inject(headers, context=self._trace.set_span_in_context(span))
        return headers

    def error_status(self, message: str) -> Any:
        """How a span says that it failed."""
        return self._trace.Status(self._trace.StatusCode.ERROR, message)

    async def close(self) -> None:
        await asyncio.to_thread(self._provider.shutdown)


def tracing_of(config: TracingConfig, *, service: str, instance: str) -> Tracing:
    """The tracer that a configuration asks for.

    Args:
        config: where spans go.
        service: the process's kind, OpenTelemetry's `service.name`.
        instance: which one of its kind.
    """
    if not config.endpoint:
        return Tracing()
    return _OtlpTracing(config, service=service, instance=instance)


def _passed_on(headers: Carrier) -> Carrier:
    """The trace that a request says it belongs to; nothing if what it says is malformed."""
    parent = headers.get("traceparent")
    if parent is None or _TRACEPARENT.fullmatch(parent) is None:
        return {}
    found = {name: headers[name] for name in _HEADERS if name in headers}
    if len(found.get("tracestate", "")) > _TRACESTATE_CHARS_MAX:
        del found["tracestate"]
    return found


class TracedApp:
    """An ASGI application each of whose requests is a span under the caller's."""

    def __init__(self, app: Any, tracing: Tracing, *, noted: Mapping[str, str]) -> None:
        """Wrap an application.

        Args:
            app: it.
            tracing: of this process.
            noted: attributes by the name of the response header that holds them.
        """
        self._app = app
        self._tracing = tracing
        self._noted = noted

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        step = self._tracing.begin(f"{scope['method']} {scope['path']}", headers)
        error: str | None = "no answer"

        async def noting(message: Any) -> None:
            nonlocal error
            if message["type"] == "http.response.start":
                error = None if message["status"] < 500 else f"status {message['status']}"
                found = {
                    name.decode("latin-1"): value.decode("latin-1") for name, value in message["headers"]
                }
                noted = {attribute: found.get(name) for name, attribute in self._noted.items()}
                step.note({"http.response.status_code": message["status"], **noted})
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            step.end(error=error)
