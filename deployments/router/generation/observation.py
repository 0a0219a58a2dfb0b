"""Tells of a finished request where it is told of: its line in the log, its trace, the page for people."""

from collections.abc import Mapping, Sequence

from cluster.entities.decision import DecisionRecord
from deployments.router.core import RouterCore
from deployments.router.generation.engine_answer import EngineAnswer
from deployments.router.records.request_log import pool_of
from deployments.tracing import Step


def begin_trace(core: RouterCore, headers: Mapping[str, str], *, surface: str, decision_id: str) -> Step:
    """The root of a request's spans, under the client's if it sent a `traceparent`."""
    step = core.tracing.begin(f"POST {surface}", headers)
    step.note({"tidemill.decision_id": decision_id, "http.request.method": "POST", "url.path": surface})
    return step


def tell(
    core: RouterCore, record: DecisionRecord, answers: Sequence[EngineAnswer], trace: Step, *, prompt: bytes
) -> None:
    """Tell of a finished request.

    Args:
        core: the router's services.
        record: what became of it.
        answers: of the engines, for the energy that they used.
        trace: its root, which ends here.
        prompt: its text.
    """
    energy_j = sum(answer.energy_j for answer in answers)
    source = next((answer.energy_source for answer in answers if answer.energy_source), None)
    core.request_log.finished(
        record, energy_j=energy_j, energy_source=source, prompt=prompt, trace_id=trace.trace_id
    )
    core.status.finished(record)
    if trace.trace_id is None:
        return
    timeline = record.timeline
    trace.note(
        {
            "gen_ai.request.model": record.signals.model,
            "gen_ai.usage.input_tokens": record.prompt_tokens,
            "gen_ai.usage.output_tokens": record.output_tokens,
            "http.response.status_code": record.status,
            "tidemill.cache": record.cache,
            "tidemill.path": record.path,
            "tidemill.pool": pool_of(record),
            "tidemill.replica": None if record.replica is None else record.replica.choice.replica_id,
            "tidemill.ttft_s": timeline.ttft_s,
            "tidemill.energy_j": None if source is None else energy_j,
            "tidemill.energy_source": source,
            "tidemill.reasons": ",".join(record.reasons),
        }
    )
    trace.end(error=record.error if record.status >= 500 or record.status == 0 else None)
