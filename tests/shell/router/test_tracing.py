"""Spans, as they arrive at a collector: OTLP over HTTP, parsed with OpenTelemetry's own messages."""

import asyncio
import subprocess
import sys

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from deployments.http_port import HttpPort

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"


class Collector:
    """Takes spans as a collector does."""

    def __init__(self):
        self.spans = []

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body")
        assert (scope["method"], scope["path"]) == ("POST", "/v1/traces")
        export = ExportTraceServiceRequest.FromString(body)
        for resource in export.resource_spans:
            service = attributes(resource.resource)["service.name"]
            self.spans += [(service, span) for scoped in resource.scope_spans for span in scoped.spans]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def of(self, answer, *, count):
        """The spans of one request, by name, once they are all there."""
        decision = answer.headers["x-tidemill-decision-id"]
        for _ in range(400):
            roots = [s for _, s in self.spans if attributes(s).get("tidemill.decision_id") == decision]
            traces = {span.trace_id for span in roots}
            found = [(service, span) for service, span in self.spans if span.trace_id in traces]
            if len(found) >= count:
                assert len(found) == count
                return {span.name: (service, span) for service, span in found}
            await asyncio.sleep(0.02)
        raise AssertionError([span.name for _, span in self.spans])


def attributes(carrier):
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in carrier.attributes}


class Heard:
    """An engine that remembers what its requests said of their trace."""

    def __init__(self, app):
        self.app = app
        self.parents = {}

    async def __call__(self, scope, receive, send):
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.parents.setdefault(scope["path"], []).append(headers.get("traceparent"))
        await self.app(scope, receive, send)


def listen(cluster, name):
    counting = cluster.engines[name].counting
    counting.app = heard = Heard(counting.app)
    return heard


@pytest.fixture
async def collector():
    app = Collector()
    app.port = HttpPort(app, host="127.0.0.1")
    await app.port.start()
    yield app
    await app.port.stop(grace_s=0.5)


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    """Batches leave at once."""
    monkeypatch.setattr("deployments.tracing._FLUSH_PERIOD_MS", 20.0)


@pytest.fixture
def start_traced(start_cluster, collector):
    async def start(**tracing):
        changes = {"tracing": {"endpoint": f"{collector.port.url}/v1/traces", **tracing}}
        return await start_cluster(changes)

    return start


async def test_a_request_is_one_trace_from_the_caller_to_the_engines(start_traced, collector, given):
    cluster = await start_traced()
    prefill, decodes = listen(cluster, "prefill-0"), [listen(cluster, f"decode-{n}") for n in (0, 1)]
    headers = {"traceparent": f"00-{TRACE}-{CALLER}-01", "tracestate": "vendor=1"}
    answer = await cluster.chat(given.long_prompt, temperature=0, headers=headers)
    assert answer.headers["x-tidemill-path"] == "disaggregated"
    spans = await collector.of(answer, count=6)
    _, root = spans["POST /v1/chat/completions"]
    assert {name: service for name, (service, _) in spans.items()} == {
        "POST /v1/chat/completions": "tidemill-router",
        "semantic_cache": "tidemill-router",
        "prefill": "tidemill-router",
        "decode": "tidemill-router",
        "POST /lookup": "tidemill-semantic-cache",
        "POST /store": "tidemill-semantic-cache",
    }
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == (TRACE, CALLER)
    assert root.kind == Span.SPAN_KIND_SERVER
    assert spans["POST /store"][1].parent_span_id == root.span_id
    for name in ("semantic_cache", "prefill", "decode"):
        _, span = spans[name]
        assert span.parent_span_id == root.span_id
        assert span.kind == Span.SPAN_KIND_CLIENT
        assert root.start_time_unix_nano <= span.start_time_unix_nano
        assert span.end_time_unix_nano <= root.end_time_unix_nano
        assert attributes(span)["tidemill.decision_id"] == answer.headers["x-tidemill-decision-id"]
    _, lookup = spans["POST /lookup"]
    assert lookup.parent_span_id == spans["semantic_cache"][1].span_id
    assert attributes(lookup)["tidemill.cache"] == "miss"
    assert spans["prefill"][1].end_time_unix_nano <= spans["decode"][1].start_time_unix_nano
    path = "/v1/chat/completions"
    assert prefill.parents[path] == [f"00-{TRACE}-{spans['prefill'][1].span_id.hex()}-01"]
    heard = [parent for decode in decodes for parent in decode.parents.get(path, [])]
    assert heard == [f"00-{TRACE}-{spans['decode'][1].span_id.hex()}-01"]


async def test_the_root_says_what_became_of_the_request_and_not_what_was_asked(start_traced, collector):
    cluster = await start_traced()
    secret = "the harbour master's secret"
    answer = await cluster.chat(secret, headers={"authorization": "Bearer sk-do-not-tell"})
    spans = await collector.of(answer, count=2)
    said = attributes(spans["POST /v1/chat/completions"][1])
    assert said["tidemill.path"] == "combined"
    assert said["tidemill.pool"] == "decode"
    assert said["tidemill.replica"] == answer.headers["x-tidemill-replica"]
    assert said["http.response.status_code"] == 200
    assert said["gen_ai.usage.output_tokens"] == answer.json["usage"]["completion_tokens"]
    assert said["gen_ai.usage.input_tokens"] == answer.json["usage"]["prompt_tokens"]
    assert said["tidemill.ttft_s"] > 0
    assert "cache_bypass" in said["tidemill.reasons"]
    everything = b"".join(span.SerializeToString() for _, span in spans.values())
    assert secret.encode() not in everything
    assert b"sk-do-not-tell" not in everything


async def test_a_stored_answer_has_no_engine_in_its_trace(start_traced, collector):
    cluster = await start_traced()
    await cluster.chat("again", temperature=0)
    await cluster.assert_idle()
    answer = await cluster.chat("again", temperature=0)
    assert answer.headers["x-tidemill-cache"] == "exact"
    spans = await collector.of(answer, count=3)
    assert set(spans) == {"POST /v1/chat/completions", "semantic_cache", "POST /lookup"}
    assert attributes(spans["POST /lookup"][1])["tidemill.cache"] == "hit"


async def test_what_failed_is_an_error_in_the_trace(start_cluster, collector):
    changes = {
        "tracing": {"endpoint": f"{collector.port.url}/v1/traces"},
        "gateway": {"max_attempts": 1},
    }
    cluster = await start_cluster(changes, stand_ins={"decode-0": "closed", "decode-1": "closed"})
    answer = await cluster.chat("hello")
    assert answer.status == 502
    spans = await collector.of(answer, count=2)
    assert spans["decode"][1].status.code == Status.STATUS_CODE_ERROR
    assert spans["POST /v1/chat/completions"][1].status.code == Status.STATUS_CODE_ERROR


async def test_the_caller_decides_about_sampling_and_else_the_ratio_does(start_traced, collector):
    cluster = await start_traced(sample_ratio=0.0)
    await cluster.chat("not sampled")
    await cluster.chat("not sampled either", headers={"traceparent": f"00-{TRACE}-{CALLER}-00"})
    answer = await cluster.chat("sampled", headers={"traceparent": f"00-{TRACE}-{CALLER}-01"})
    await collector.of(answer, count=2)
    assert {span.trace_id.hex() for _, span in collector.spans} == {TRACE}


@pytest.mark.parametrize(
    ("sent", "heard"),
    [
        (f"00-{TRACE}-{CALLER}-01", f"00-{TRACE}-{CALLER}-01"),
        (f"00-{'0' * 32}-{CALLER}-01", None),
        ("00-zz-zz-01", None),
        (f"ff-{TRACE}-{CALLER}-01", None),
        (None, None),
    ],
)
async def test_without_tracing_a_sound_traceparent_is_passed_on_as_it_is(cluster, sent, heard):
    engines = [listen(cluster, f"decode-{number}") for number in (0, 1)]
    await cluster.chat("hello", headers={"traceparent": sent} if sent else {})
    assert [p for engine in engines for p in engine.parents.get("/v1/chat/completions", [])] == [heard]


async def test_a_collector_that_is_away_costs_no_request(start_cluster):
    tracing = {"endpoint": "http://127.0.0.1:9/v1/traces", "export_timeout_s": 0.2, "spans_queued_max": 4}
    cluster = await start_cluster({"tracing": tracing})
    answers = await asyncio.gather(*(cluster.chat(f"hello {number}") for number in range(20)))
    assert {answer.status for answer in answers} == {200}
    await cluster.assert_idle()


def test_opentelemetry_is_not_even_imported_while_tracing_is_off():
    code = (
        "import sys; from cluster.config.observability import TracingConfig;"
        "from deployments.tracing import tracing_of;"
        "step = tracing_of(TracingConfig(), service='s', instance='i').begin('x', {});"
        "assert step.step('y', {}) is step and not step.headers;"
        "sys.exit(any(name.startswith('opentelemetry.sdk') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
