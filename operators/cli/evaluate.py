"""`tidemill evaluate LOG --policy NEW`: what another model policy would have reached on old traffic."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from cluster.config import ConfigError, load_config
from cluster.config.model_routing import ModelPolicyName, ModelRoutingConfig
from cluster.entities.decision import ModelDecision
from cluster.policy.routing.models.evaluation import (
    Interval,
    LoggedChoice,
    Overlap,
    PolicyEvaluation,
    evaluate_policy,
)
from cluster.policy.routing.models.interface import ModelPolicy
from cluster.policy.routing.models.policies import model_policy
from cluster.replay import DecisionLogError
from cluster.replay.model_choices import LoggedOutcome, ModelLog, read_model_log
from operators.cli.configuration import config_refused
from operators.cli.console import CliError

_METRICS: dict[str, Callable[[LoggedOutcome], float | None]] = {
    "quality": lambda outcome: outcome.quality,
    "cost_usd": lambda outcome: outcome.cost_usd,
    "energy_j": lambda outcome: outcome.energy_j,
}
_TOO_POOR = {
    Overlap.TOO_FEW_EFFECTIVE_SAMPLES: "it seldom agrees with the log, so few requests carry all the weight",
    Overlap.UNSUPPORTED_CHOICES: "it would choose models where the log could not have chosen them",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """A policy judged by a log."""

    policy: str
    choices: int
    """Requests of the log whose model was left open and chosen."""
    judged: int
    """Those of them whose quality somebody judged."""
    learnt_from: int
    """The oldest requests, from which the policy learnt before it was evaluated on the rest."""
    by_metric: dict[str, PolicyEvaluation]

    @property
    def tells(self) -> bool:
        """Whether every estimate can be acted on."""
        return bool(self.by_metric) and all(found.tells for found in self.by_metric.values())


def evaluate(
    log: Path,
    *,
    policy: str,
    outcomes: list[Path],
    config_path: Path | None,
    learn_share: float,
    seed: int,
    json_output: bool,
) -> int:
    """Estimate what a policy would have reached on the traffic of a log.

    Returns:
        0 if the log tells, 1 if the overlap is too poor to tell.

    Raises:
        CliError: the log cannot be read, or holds nothing to evaluate on.
    """
    read = _read((log, *outcomes))
    if not read.choices:
        raise CliError(
            f"{log}: no request left its model open, so there is nothing to evaluate on", exit_code=2
        )
    made, learns = _policy(policy, config_path, read)
    try:
        findings = findings_of(read, made, learn_share=learn_share if learns else 0.0, seed=seed)
    except ValueError as error:
        raise CliError(f"{log}: {error}", exit_code=2) from error
    if not findings.by_metric:
        raise CliError(
            f"{log}: nobody judged any of the {findings.choices} choices, and what they took is not known; "
            "give the outcomes with --outcomes",
            exit_code=2,
        )
    print(json.dumps(_as_json(findings)) if json_output else _as_text(findings))
    return 0 if findings.tells else 1


def findings_of(
    log: ModelLog, policy: ModelPolicy[Any], *, learn_share: float, seed: int, resamples: int = 1000
) -> Findings:
    """Let a policy learn from the oldest choices, then evaluate it on the others.

    Raises:
        ValueError: a logged choice has propensity 0.
    """
    state = policy.initial()
    learnt_from = int(len(log.choices) * learn_share)
    for decision_id, decision in log.choices[:learnt_from]:
        outcome = log.outcome(decision_id, decision)
        if outcome is not None and decision_id in log.outcomes:
            state = policy.learn(state, outcome, now_s=outcome.at_s)
    rest = log.choices[learnt_from:]
    now_s = max((decision.decided_at_s for _, decision in rest), default=0.0)
    found: dict[str, PolicyEvaluation] = {}
    for metric, value_of in _METRICS.items():
        usable = list(_logged(rest, log, value_of))
        # Without prices or meters every answer costs nothing, and there is nothing to compare.
        if any(entry.reward for entry in usable):
            found[metric] = evaluate_policy(
                usable, policy, state, now_s=now_s, seed=seed, resamples=resamples
            )
    return Findings(
        policy=policy.name,
        choices=len(log.choices),
        judged=sum(_quality_known(log, decision_id) for decision_id, _ in log.choices),
        learnt_from=learnt_from,
        by_metric=found,
    )


def _quality_known(log: ModelLog, decision_id: str) -> bool:
    return log.outcomes.get(decision_id, LoggedOutcome()).quality is not None


def _logged(
    choices: tuple[tuple[str, ModelDecision], ...],
    log: ModelLog,
    value_of: Callable[[LoggedOutcome], float | None],
) -> Iterator[LoggedChoice]:
    for decision_id, decision in choices:
        value = value_of(log.outcomes.get(decision_id, LoggedOutcome()))
        if value is not None and decision.choice.model is not None:
            yield LoggedChoice(
                signals=decision.signals,
                candidates=decision.candidates,
                propensities=decision.choice.propensities,
                chosen=decision.choice.model,
                reward=value,
            )


def _read(paths: tuple[Path, ...]) -> ModelLog:
    """The log and the outcomes; a folder stands for its JSONL files."""
    files = [file for path in paths for file in (sorted(path.glob("*.jsonl")) if path.is_dir() else [path])]
    try:
        with ExitStack() as opened:
            return read_model_log(
                (str(file), opened.enter_context(file.open(encoding="utf-8"))) for file in files
            )
    except OSError as error:
        raise CliError(f"{error.filename}: {error.strerror or error}", exit_code=2) from error
    except UnicodeDecodeError as error:
        raise CliError(f"{', '.join(map(str, paths))}: not UTF-8 text", exit_code=2) from error
    except DecisionLogError as error:
        raise CliError(str(error), exit_code=2) from error


def _policy(name: str, config_path: Path | None, log: ModelLog) -> tuple[ModelPolicy[Any], bool]:
    """The policy, and whether it learns; over the configured models, or over those of the log."""
    if name not in get_args(ModelPolicyName):
        raise CliError(f"no policy {name!r}; there are {', '.join(get_args(ModelPolicyName))}", exit_code=2)
    routing, models, warm_start = ModelRoutingConfig(), _models(log), None
    if config_path is not None:
        try:
            config = load_config(config_path)
            learnt = config.routing.learning.warm_start
            # It is a state of the configured policy, which is not always the one to judge.
            if learnt and config.routing.models.policy == name:
                warm_start = Path(learnt).read_bytes()
        except ConfigError as error:
            raise config_refused(error) from error
        except OSError as error:
            raise CliError(f"{error.filename}: {error.strerror or error}", exit_code=2) from error
        routing, models = config.routing.models, tuple(config.models)
    try:
        chosen = ModelRoutingConfig.model_validate({**routing.model_dump(), "policy": name})
        policy = model_policy(chosen, models, warm_start=warm_start)
    except ValidationError as error:
        raise CliError(
            f"routing.models with policy {name}: {error.errors()[0]['msg']}", exit_code=2
        ) from error
    except ValueError as error:
        raise CliError(f"{name}: {error}", exit_code=2) from error
    return policy, policy.initial() is not None


def _models(log: ModelLog) -> tuple[str, ...]:
    return tuple(dict.fromkeys(known.model for _, decision in log.choices for known in decision.candidates))


def _as_json(findings: Findings) -> dict[str, Any]:
    metrics = {
        metric: {name: value for name, value in asdict(found).items() if name != "policy"}
        | {"tells": found.tells}
        for metric, found in findings.by_metric.items()
    }
    return {
        "policy": findings.policy,
        "choices": findings.choices,
        "judged": findings.judged,
        "learnt_from": findings.learnt_from,
        "tells": findings.tells,
        "metrics": metrics,
    }


def _as_text(findings: Findings) -> str:
    learnt = f"; learnt from the first {findings.learnt_from}" if findings.learnt_from else ""
    asked = f"{findings.choices} requests that left the model open, {findings.judged} judged"
    lines = [f"{findings.policy} on {asked}{learnt}"]
    for metric, found in findings.by_metric.items():
        lines += ["", f"{metric}, mean of {found.requests} requests, with 95 % intervals"]
        parts = {"log": found.logged, "SNIPS": found.snips, "DR": found.dr, "IPS": found.ips}
        lines += [f"  {name:6}{part.value:10.4g}  {_interval(part)}" for name, part in parts.items()]
        lines.append(f"  {_overlap(found)}")
    return "\n".join(lines)


def _interval(part: Interval) -> str:
    return f"[{part.low:.4g}, {part.high:.4g}]"


def _overlap(found: PolicyEvaluation) -> str:
    facts = (
        f"worth {found.effective_samples:.0f} of {found.requests} requests; "
        f"{found.unsupported_share:.1%} of its choices could not have been logged"
    )
    if found.tells:
        return f"the log tells ({facts})"
    return f"THE OVERLAP IS TOO POOR TO TELL: {_TOO_POOR[found.overlap]} ({facts})"
