"""`tidemill evaluate` on what a router and a learner wrote themselves, where the truth is known."""

import json
import random
from pathlib import Path

import yaml

from operators.cli.evaluate import evaluate

REWARD = {"sim": 0.3, "vast": 0.9}
CHANGES = {
    "models": {"sim": {"source": "simulated", "aliases": []}, "vast": {"source": "simulated"}},
    "pools": {"vast": {"model": "vast", "engine": {"kind": "simulated", "step_base_s": 0.001}}},
    "routing": {
        "models": {"policy": "epsilon", "linear": {"epsilon_decay": 0.99, "epsilon_min": 0.2}},
        "learning": {"publish_period_s": 0.01},
    },
}


async def test_the_log_of_a_learning_router_tells_what_another_policy_is_worth(
    start_cluster, tmp_path, capsys
):
    cluster = await start_cluster(CHANGES)
    cluster.core.models._draw = random.Random(5).random
    chance = random.Random(6)
    earned = []
    for number in range(160):
        answer = await cluster.chat(f"question {number}", model="auto", max_tokens=2)
        reward = float(chance.random() < REWARD[answer.headers["x-tidemill-model"]])
        earned.append(reward)
        body = {"decision_id": answer.headers["x-tidemill-decision-id"], "reward": reward}
        assert (await cluster.post("/v1/feedback", body)).status == 200
    state = Path(cluster.state_dir)
    await cluster.until(lambda: _lines(state / "decisions") == len(earned), within_s=10.0)
    configured = tmp_path / "other.yaml"
    configured.write_text(
        yaml.safe_dump(
            {
                "models": CHANGES["models"],
                "pools": {name: {"model": name, "engine": {"kind": "simulated"}} for name in REWARD},
                "routing": {"models": {"default": "vast"}},
            }
        ),
        encoding="utf-8",
    )
    status = evaluate(
        state / "decisions",
        policy="static",
        outcomes=[state / "model-routing"],
        config_path=configured,
        learn_share=0.0,
        seed=0,
        json_output=True,
    )
    found = json.loads(capsys.readouterr().out)
    quality = found["metrics"]["quality"]
    assert (status, found["judged"], quality["overlap"]) == (0, len(earned), "enough")
    assert quality["logged"]["value"] == sum(earned) / len(earned)
    assert quality["logged"]["high"] < REWARD["vast"]
    for estimate in ("ips", "snips", "dr"):
        assert quality[estimate]["low"] <= REWARD["vast"] <= quality[estimate]["high"], quality


def _lines(folder):
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in folder.glob("**/*.jsonl"))
