"""`tidemill adapters …`, `status` and `explain` against a running router, coordinator and pagers."""

import asyncio
import json

import pytest
from typer.testing import CliRunner

from operators.cli.app import app
from tests.adapter_files import write_adapter

SETTINGS = {
    "models": {"sim": {"source": "simulated", "aliases": []}},
    "pools": {
        "decode": {
            "adapters": {"slots": 2},
            "engine": {"kind": "simulated", "step_base_s": 0.001, "output_tokens": 4},
        }
    },
    "adapters": {"paging": {"policy": "gdsf"}, "fleet": {"learned_period_s": 0.02}},
}


@pytest.fixture
async def typed(start_cluster, monkeypatch, given):
    """A cluster without adapters yet, and a function that types commands at it."""
    cluster = await start_cluster(SETTINGS)
    await cluster.start_coordinator()
    monkeypatch.setenv("TIDEMILL_ADMIN_KEY", given.admin_key)

    async def run(*arguments):
        result = await asyncio.to_thread(CliRunner().invoke, app, [*arguments, "--url", cluster.url])
        return result.exit_code, result.output

    return cluster, run


async def test_a_life_of_an_adapter(typed, tmp_path):
    cluster, run = typed
    folder = str(write_adapter(tmp_path / "sql", 1))
    status, out = await run("adapters", "add", "sql", folder, "--tag", "team=data")
    assert status == 0, out
    assert "added sim:sql" in out
    assert "2 of 2 replicas know of it" in out
    answer = await cluster.chat(model="sim:sql", max_tokens=2)
    assert answer.status == 200
    status, out = await run("adapters", "list", "--json")
    (entry,) = json.loads(out)["data"]
    assert (entry["id"], entry["tags"], entry["rank"]) == ("sim:sql", {"team": "data"}, 8)
    status, out = await run("adapters", "list")
    assert (status, "sim:sql" in out, "device 1" in out) == (0, True, True)
    assert (await run("adapters", "pin", "sim:sql"))[0] == 0
    status, out = await run("adapters", "show", "sql")
    assert status == 0
    assert "pinned         yes" in out
    assert "team=data" in out
    assert (await run("adapters", "unpin", "sql"))[0] == 0
    status, out = await run("adapters", "update", "sql", "--prior-utility", "0.7", "--json")
    assert json.loads(out)["adapter"]["prior_utility"] == 0.7
    status, out = await run("status")
    assert "in slots" in out
    assert "sql" in out
    status, out = await run("adapters", "remove", "sql")
    assert (status, out.startswith("removed sim:sql")) == (0, True)
    assert (await cluster.chat(model="sim:sql")).status == 404


async def test_what_is_wrong_is_said_in_one_line(typed, tmp_path):
    _, run = typed
    for arguments, words in (
        (("add", "x", "/nowhere"), "no adapter_config.json"),
        (("remove", "x"), "There is no adapter 'x'"),
        (("show", "x"), "There is no adapter 'x'"),
        (("update", "x"), "say what to change"),
        (("update", "x", "--tag", "nothing"), "--tag is KEY=VALUE"),
        (("add", "auto", str(write_adapter(tmp_path / "a", 1))), "means something else"),
    ):
        status, out = await run("adapters", *arguments)
        assert status == 1, arguments
        assert words in out
        assert "Traceback" not in out


async def test_a_choice_is_explained(typed, tmp_path):
    cluster, run = typed
    for seed, name in enumerate(("law", "code")):
        await run("adapters", "add", name, str(write_adapter(tmp_path / name, seed)))
    answer = await cluster.chat("Explain this", model="sim:auto", max_tokens=2)
    await cluster.decision(answer)
    status, out = await run("explain", answer.headers["x-tidemill-decision-id"])
    assert status == 0, out
    chosen = answer.headers["x-tidemill-adapter"]
    assert f"adapter  {chosen} for 'sim:auto' by" in out
    assert f"→ {chosen}  utility" in out
    assert "price of the page-in" in out
    assert f"answered by {chosen}, which lay in" in out
    named = await cluster.chat("Explain this", model="sim:law", max_tokens=2)
    await cluster.decision(named)
    _, out = await run("explain", named.headers["x-tidemill-decision-id"])
    assert "adapter  law, named by the caller" in out
