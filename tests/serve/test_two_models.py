"""Two real models, each better at something: `auto` finds out which by feedback, and remembers it."""

import asyncio
import itertools
import json
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from cluster.config.model_routing import CascadeConfig
from cluster.entities.workload import Surface
from cluster.policy.routing.models.verifier import grade_by_margins
from deployments.engine.recipes import arithmetic_questions, is_right
from deployments.engine.weights import default_cache_dir, resolve_weights
from deployments.router.generation.held_answer import margins_of
from load_tests.two_models import FACTS
from tests.serve.conftest import running, shipped

pytestmark = [pytest.mark.ray, pytest.mark.engine, pytest.mark.timeout(1500)]

_GENERAL, _SUMS = "smollm2-135m-instruct", "smollm2-135m-sums"
_FACTS = FACTS[:16]
_TOKENS = 24
_CLIENTS = 2
"""At a time: one for each core."""


@dataclass(frozen=True)
class Asked:
    """A question, who answered it, and how well."""

    kind: str
    model: str
    reward: float
    decision_id: str


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Any:
    config = shipped("two-models.yaml")
    for model in config["models"].values():  # made before the clock of the start runs
        resolve_weights(model["source"], default_cache_dir(os.environ), print)
    # Only what the test says of the answers is to teach, and only quality to count: the specialist's short
    # answers would else bring it everything before anybody has judged one.
    config["routing"]["models"]["goals"] = {"balanced": {"cost": 0, "latency": 0, "energy": 0}}
    config["routing"]["learning"] = {"automatic": {"left_weight": 0, "retry_weight": 0, "format_weight": 0}}
    config["gateway"] = {"router_replicas": 2, "router_cpus": 0.1}
    yield from running(config, tmp_path_factory.mktemp("two"))


def _questions(seed: int, count: int) -> list[tuple[str, Any]]:
    """Sums that the specialist was not trained on, and facts, in turn; each sum only once."""
    sums = itertools.islice(arithmetic_questions(seed, held_out=True), count)
    facts = itertools.cycle(_FACTS)
    return [pair for s in sums for pair in (("sum", s), ("fact", next(facts)))]


async def _ask(http: httpx.AsyncClient, url: str, kind: str, question: Any, *, model: str = "auto") -> Asked:
    text = question.text if kind == "sum" else question[0]
    body = {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": _TOKENS,
        "temperature": 0,
    }
    headers = {"x-tidemill-cache": "off"}
    answer = await http.post(f"{url}/v1/chat/completions", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    said = answer.json()["choices"][0]["message"]["content"]
    right = is_right(question, said) if kind == "sum" else question[1] in said.lower()
    found = answer.headers
    assert answer.json()["model"] == found["x-tidemill-model"]
    return Asked(kind, found["x-tidemill-model"], float(right), found["x-tidemill-decision-id"])


async def _judge(http: httpx.AsyncClient, url: str, asked: Asked) -> dict[str, Any]:
    body = {"decision_id": asked.decision_id, "reward": asked.reward}
    told = await http.post(f"{url}/v1/feedback", json=body)
    assert told.status_code == 200, told.text
    found: dict[str, Any] = told.json()
    return found


def _ask_all(url: str, questions: list[tuple[str, Any]], *, judge: bool, model: str = "auto") -> list[Asked]:
    """Ask all, a few at a time, and say of each answer whether it is right."""

    async def one(http: httpx.AsyncClient, gate: asyncio.Semaphore, kind: str, question: Any) -> Asked:
        async with gate:
            asked = await _ask(http, url, kind, question, model=model)
            if judge:
                assert (await _judge(http, url, asked))["status"] == "counted"
            return asked

    async def everything() -> list[Asked]:
        gate = asyncio.Semaphore(_CLIENTS)
        async with httpx.AsyncClient(timeout=120) as http:
            return await asyncio.gather(*(one(http, gate, kind, question) for kind, question in questions))

    return asyncio.run(everything())


def _share(asked: list[Asked], kind: str, model: str) -> float:
    of_kind = [a for a in asked if a.kind == kind]
    return sum(a.model == model for a in of_kind) / len(of_kind)


def _mean(asked: list[Asked], kind: str, model: str) -> float:
    rewards = [a.reward for a in asked if a.kind == kind and a.model == model]
    return sum(rewards) / max(1, len(rewards))


_KILL = """
import json, sys, time
import ray
from deployments.directory.actor import NAMESPACE
from deployments.model_learning.actor import ACTOR_NAME
ray.init(address=sys.argv[1], namespace=NAMESPACE, log_to_driver=False, configure_logging=False)
learner = ray.get_actor(ACTOR_NAME, NAMESPACE)
found = ray.get(learner.overview.remote(), timeout=60)
if sys.argv[2] == "kill":
    killed = found["pid"]
    ray.kill(learner, no_restart=False)
    for _ in range(300):
        try:
            found = ray.get(learner.overview.remote(), timeout=60)
        except ray.exceptions.RayActorError:  # on its way back
            pass
        if found["pid"] != killed:
            break
        time.sleep(0.1)
print(json.dumps(found))
"""


def _learner(cluster: Any, do: str) -> dict[str, Any]:
    """What the learner says of itself, killed before that or not."""
    address = f"127.0.0.1:{cluster.config['local_cluster']['gcs_port']}"
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(cluster.state / "ray-token")}
    done = subprocess.run(
        [sys.executable, "-c", _KILL, address, do],
        env=os.environ | token,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_each_model_is_better_at_something_and_its_name_is_obeyed(two: Any) -> None:
    questions = _questions(3, 12)
    asked = [a for model in (_GENERAL, _SUMS) for a in _ask_all(two.url, questions, judge=False, model=model)]
    assert Counter(a.model for a in asked) == {_GENERAL: 24, _SUMS: 24}
    assert _mean(asked, "sum", _SUMS) >= _mean(asked, "sum", _GENERAL) + 0.3, asked
    assert _mean(asked, "fact", _GENERAL) >= _mean(asked, "fact", _SUMS) + 0.3, asked
    names = {entry["id"] for entry in httpx.get(f"{two.url}/v1/models", timeout=10).json()["data"]}
    assert {_GENERAL, _SUMS, "auto", "auto:cheap", "auto:quality"} <= names


def test_feedback_moves_each_kind_of_question_to_the_model_that_answers_it(two: Any) -> None:
    before = _ask_all(two.url, _questions(5, 10), judge=False)
    learnt = _ask_all(two.url, _questions(7, 40), judge=True)
    time.sleep(1.0)  # the last snapshot is on its way
    after = _ask_all(two.url, _questions(11, 15), judge=False)
    shares = {
        f"{kind} to {model}": [round(_share(part, kind, model), 2) for part in (before, learnt, after)]
        for kind, model in (("sum", _SUMS), ("fact", _GENERAL))
    }
    print(shares)
    assert {a.model for a in learnt} == {_GENERAL, _SUMS}, "auto chooses among both"
    assert _share(after, "sum", _SUMS) >= 0.8, shares
    assert _share(after, "fact", _GENERAL) >= 0.8, shares
    assert _share(after, "sum", _SUMS) - _share(before, "sum", _SUMS) >= 0.3, shares
    right_before = sum(a.reward for a in before) / len(before)
    right_after = sum(a.reward for a in after) / len(after)
    assert right_after >= right_before + 0.1, (right_before, right_after)


def test_a_real_engine_says_how_sure_it_was_of_its_tokens(two: Any) -> None:
    """What a cascade grades answers by; the specialist knows sums, and only guesses at anything else."""
    engine = next(r["url"] for r in two.replicas() if r["model"] == _SUMS)
    grades: dict[str, list[float]] = {"sum": [], "fact": []}
    for kind, question in _questions(23, 8):
        body = {
            "model": _SUMS,
            "messages": [{"role": "user", "content": question.text if kind == "sum" else question[0]}],
            "max_tokens": _TOKENS,
            "temperature": 0,
            "logprobs": True,
            "top_logprobs": 2,
        }
        answer = httpx.post(f"{engine}/v1/chat/completions", json=body, timeout=60).json()
        margins = margins_of(answer, Surface.CHAT)
        assert len(margins) == answer["usage"]["completion_tokens"]
        grades[kind].append(grade_by_margins(margins, CascadeConfig()))
    print(grades)
    assert sum(grades["sum"]) > sum(grades["fact"])


def test_the_choice_is_in_the_record_and_explained(two: Any) -> None:
    async def one() -> Asked:
        async with httpx.AsyncClient(timeout=60) as http:
            return await _ask(http, two.url, *_questions(13, 1)[0])

    asked = asyncio.run(one())
    choice = two.written_decision(asked.decision_id)["model_choice"]
    assert choice["choice"]["model"] == asked.model
    assert sum(choice["choice"]["propensities"].values()) == pytest.approx(1)
    assert choice["choice"]["version"] > 0
    assert len(choice["signals"]["embedding"]) == 384
    assert all(c["ttft_s"] > 0 and c["energy_j"] > 0 for c in choice["candidates"])
    shown = two.run("explain", asked.decision_id)
    assert shown.returncode == 0, shown.stderr
    for word in ("model ", "'auto'", "linucb", _GENERAL, _SUMS, "picked with", "category"):
        assert word in shown.stdout, shown.stdout


def test_a_killed_learner_comes_back_with_what_it_knew(two: Any) -> None:
    questions = _questions(17, 4)
    asked = _ask_all(two.url, questions, judge=True)
    two.wait_for("all outcomes", lambda: _learner(two, "ask")["version"] > 0, 20)
    before = _learner(two, "ask")
    began_s = time.monotonic()
    after = _learner(two, "kill")
    print(f"the learner was back after {time.monotonic() - began_s:.1f} s, start of Python and Ray included")
    assert after.pop("pid") != before.pop("pid")
    assert after == before
    assert after["notes"] == []
    meanwhile = _ask_all(two.url, questions, judge=False)
    assert _share(meanwhile, "sum", _SUMS) >= 0.75

    async def again() -> dict[str, Any]:
        async with httpx.AsyncClient(timeout=30) as http:
            return await _judge(http, two.url, asked[0])

    assert asyncio.run(again())["status"] == "repeated", "the decision is remembered, and what was said of it"
    assert _ask_all(two.url, questions[:2], judge=True)
