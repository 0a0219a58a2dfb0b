"""`tidemill explain ID`: one request's decisions, in words. Prompts are never logged, so never shown."""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from cluster.entities.decision import Attempt, DecisionRecord, ModelDecision, ReplicaDecision
from cluster.entities.reasons import Reason
from cluster.replay import DecisionLogError, from_json
from operators.cli.console import CliError
from operators.cli.gateway_client import admin_get

_CANDIDATES_SHOWN = 10


def explain(decision_id: str, *, json_output: bool, url: str | None) -> None:
    """Print why a request went where it went.

    Raises:
        CliError: nothing runs, the id is unknown, or the record is of another version.
    """
    data = admin_get(f"/admin/decisions/{quote(decision_id, safe='')}", url=url)
    if json_output:
        print(json.dumps(data))
        return
    print("\n".join(explanation(data)))


def explanation(data: dict[str, Any]) -> list[str]:
    """The lines for a person.

    Raises:
        CliError: the record is of another version.
    """
    try:
        record = from_json(data)
    except DecisionLogError as error:
        raise CliError(f"the record cannot be read by this version ({error}); --json shows it raw") from error
    return [
        f"decision {record.decision_id} by router {record.router}",
        *_request(record),
        *_model(record.model_choice),
        *_adapter(record),
        *_cascade(record),
        *_path(record),
        *_choice("prefill replica", record.prefill),
        *_choice("replica", record.replica),
        *_attempts(record),
        *_outcome(record),
    ]


def _words(reasons: tuple[Reason, ...]) -> str:
    return ", ".join(reason.value.replace("_", " ") for reason in reasons) or "no reason given"


def _request(record: DecisionRecord) -> Iterator[str]:
    signals = record.signals
    limit = f", at most {signals.max_output_tokens} out" if signals.max_output_tokens is not None else ""
    stream = ", streamed" if signals.stream else ""
    yield (
        f"asked    {signals.surface.value} for {signals.model}: "
        f"about {signals.prompt_tokens} prompt tokens{limit}{stream}; tenant {signals.tenant}"
    )
    yield f"cache    {record.cache}"


def _model(decision: ModelDecision | None) -> Iterator[str]:
    """Why this model, where the caller left it open."""
    if decision is None:
        return
    choice, signals = decision.choice, decision.signals
    chance = f", picked with probability {choice.propensity:.2f}" if 0 < choice.propensity < 1 else ""
    yield (
        f"model    {choice.model or 'none'} for {decision.asked!r} by {choice.policy}, "
        f"state {choice.version} ({_words(choice.reasons)}{chance})"
    )
    read = "with" if signals.embedding else "without"
    hints = "".join(f", hint {name}={value}" for name, value in signals.hints)
    yield (
        f"         goal {signals.goal.value}, category {signals.category} "
        f"({signals.category_confidence:.2f}), language {signals.language}, "
        f"complexity {signals.complexity:.2f}, turn {signals.turns}"
        f"{', tools' if signals.tools else ''}{hints}, {read} embedding"
    )
    ranked = sorted(decision.candidates, key=lambda c: (-choice.scores.get(c.model, float("-inf")), c.model))
    for candidate in ranked[:_CANDIDATES_SHOWN]:
        score = choice.scores.get(candidate.model)
        shown = "not scored" if score is None else f"score {score:6.3f}"
        yield (
            f"  {'→' if candidate.model == choice.model else ' '} {shown}  {candidate.model}  "
            f"picked with {choice.propensities.get(candidate.model, 0.0):.2f}, "
            f"about ${candidate.cost_usd:.3g}, {candidate.energy_j:.3g} J, TTFT {candidate.ttft_s:.3f} s"
            f"{'' if candidate.usable else ', not usable'}"
        )


def _adapter(record: DecisionRecord) -> Iterator[str]:
    """Which adapter, why, and whether the replica had it."""
    choice, answer = record.adapter_choice, record.adapter_answer
    if choice is None:
        return
    if choice.named:
        yield f"adapter  {choice.adapter}, named by the caller; nearest: {choice.tier.value}"
    elif not choice.adapter:
        yield f"adapter  none for {choice.asked!r}: the catalogue has none, so the base model answers"
    else:
        how = "explored" if choice.explored else "best score"
        yield (
            f"adapter  {choice.adapter} for {choice.asked!r} by {choice.policy} ({how}, picked with "
            f"probability {choice.propensity:.2f}): score {choice.score:.3f} (bonus {choice.bonus:.3f}), "
            f"price of the page-in {choice.price:.3f}, nearest: {choice.tier.value}"
        )
        known = f"what {len(choice.states)} replicas had learnt" if choice.states else "prior utilities alone"
        words = "with" if choice.text_read else "without"
        yield f"         from {known}, {words} the embedding, catalogue {choice.catalogue_version}"
    for candidate in choice.candidates[:_CANDIDATES_SHOWN]:
        yield (
            f"  {'→' if candidate.name == choice.adapter else ' '} {candidate.name}  "
            f"utility {candidate.utility:.3f}, bonus {candidate.bonus:.3f}, price {candidate.price:.3f}, "
            f"nearest: {candidate.tier.value}"
        )
    if len(choice.candidates) > _CANDIDATES_SHOWN:
        yield f"    … and {len(choice.candidates) - _CANDIDATES_SHOWN} more"
    if answer is not None:
        yield (
            f"         answered by {answer.adapter or 'the base model'}, which lay in {answer.tier or '?'}; "
            f"parked for {answer.waited_s:.3f} s"
        )


def _cascade(record: DecisionRecord) -> Iterator[str]:
    """What every model of a cascade did."""
    for number, answer in enumerate(record.cascade, start=1):
        grade = "not graded" if answer.grade is None else f"graded {answer.grade:.2f}"
        sent = "sent" if answer.accepted else "not sent"
        yield (
            f"cascade {number}: {answer.model}, {grade}, {sent} ({_words(answer.reasons)}); "
            f"{answer.prompt_tokens} tokens in, {answer.output_tokens} out, ${answer.cost_usd:.3g}"
        )


def _path(record: DecisionRecord) -> Iterator[str]:
    path = record.path.value if record.path else "none: nothing was answered"
    decision = record.path_decision
    yield f"path     {path}" + (f" ({_words(decision.choice.reasons)})" if decision else "")
    if decision and record.path and decision.choice.path is not record.path:
        yield f"         first chosen: {decision.choice.path.value}; changed by what happened below"
    if record.reasons:
        yield f"also     {_words(record.reasons)}"


def _choice(title: str, decision: ReplicaDecision | None) -> Iterator[str]:
    if decision is None:
        return
    choice = decision.choice
    chosen = choice.replica_id or "none"
    chance = f", picked with probability {choice.propensity:.2f}" if choice.propensity < 1 else ""
    yield f"{title}: {chosen} ({_words(choice.reasons)}{chance})"
    # Only the default policy scores in seconds.
    unit = "" if Reason.BEST_SCORE in choice.reasons else " s"
    views = {view.replica_id: view for view in decision.candidates}
    ranked = sorted(views, key=lambda name: (choice.scores.get(name, float("inf")), name))
    for name in ranked[:_CANDIDATES_SHOWN]:
        view = views[name]
        score = choice.scores.get(name)
        shown = "filtered out" if score is None else f"{score:8.3f}{unit}"
        energy_j = choice.energies_j.get(name)
        yield (
            f"  {'→' if name == choice.replica_id else ' '} {shown}  {name}  "
            f"in flight {view.requests_in_flight}/{view.max_concurrent_requests}, "
            f"prefill ahead {view.pending_prefill_tokens} tokens, "
            f"cached {view.cached_tokens} tokens, {view.phase.value}"
            f"{'' if energy_j is None else f', {energy_j:.1f} J'}"
        )
    if len(ranked) > _CANDIDATES_SHOWN:
        yield f"    … and {len(ranked) - _CANDIDATES_SHOWN} more"


def _attempts(record: DecisionRecord) -> Iterator[str]:
    for number, attempt in enumerate(record.attempts, start=1):
        yield f"attempt {number}: {_attempt(attempt, record.timeline.arrived_at_s)}"


def _attempt(attempt: Attempt, arrived_at_s: float) -> str:
    began_s = attempt.started_at_s - arrived_at_s
    ended = "still running" if attempt.ended_at_s is None else f"{attempt.ended_at_s - arrived_at_s:.3f} s"
    reason = f" ({attempt.reason.value.replace('_', ' ')})" if attempt.reason else ""
    return f"{attempt.role} on {attempt.replica_id}: {attempt.outcome}{reason}, {began_s:.3f} s to {ended}"


def _outcome(record: DecisionRecord) -> Iterator[str]:
    error = f", error {record.error}" if record.error else ""
    yield f"status   {record.status}{error}"
    timeline = record.timeline
    parts = []
    if timeline.dispatched_at_s is not None:
        parts.append(f"dispatched after {timeline.dispatched_at_s - timeline.arrived_at_s:.3f} s")
    if timeline.ttft_s is not None:
        parts.append(f"TTFT {timeline.ttft_s:.3f} s")
    if timeline.tpot_s is not None:
        parts.append(f"TPOT {1000 * timeline.tpot_s:.1f} ms")
    if timeline.e2e_s is not None:
        parts.append(f"e2e {timeline.e2e_s:.3f} s")
    yield f"time     {', '.join(parts) or 'no instant was noted'}"
    prompt = "unknown" if record.prompt_tokens is None else str(record.prompt_tokens)
    cached = "" if record.cached_tokens is None else f" ({record.cached_tokens} of them in the prefix cache)"
    yield f"tokens   {prompt} in{cached}, {record.output_tokens} out"
