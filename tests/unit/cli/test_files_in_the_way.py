"""Files that are named and are not there, or hold something else: one line that names the file once."""

import json

import pytest
from typer.testing import CliRunner

from cluster.config import ConfigError, load_config, parse_config
from operators.cli.app import app

FLEET = """
models: {m: {source: s, architecture: llama-3.1-8b}}
pools: {h100: {model: m, gpu_type: H100, replicas: {min: 1, max: 1}}}
"""


def told(*arguments):
    done = CliRunner().invoke(app, list(map(str, arguments)))
    return done.exit_code, done.output


@pytest.mark.parametrize(
    "command",
    [
        ("replay", "{}"),
        ("evaluate", "{}", "--policy", "linucb"),
        ("evaluate", "{there}", "--outcomes", "{}", "--policy", "linucb"),
        ("simulate", "-c", "{}", "-t", "{there}"),
        ("render", "-c", "{}", "-o", "{there}"),
        ("keys", "list", "-c", "{}"),
    ],
)
def test_a_missing_file_is_named_once(command, tmp_path):
    (tmp_path / "there").write_text("")
    missing = tmp_path / "absent.file"
    status, said = told(*(part.format(missing, there=tmp_path / "there") for part in command))
    flat = " ".join(said.split())
    assert status == 2
    assert flat.count("absent.file") == 1, flat
    assert "No such file or directory" in flat
    assert "Errno" not in flat


@pytest.mark.parametrize("command", [("replay",), ("evaluate", "--policy", "linucb")])
def test_a_file_that_is_no_text_is_said_to_be_none(command, tmp_path):
    (tmp_path / "log").write_bytes(b"\xff\xfe\x00")
    status, said = told(*command, tmp_path / "log")
    assert status == 2
    assert "log: not UTF-8 text" in " ".join(said.split())


def test_yaml_is_located_in_the_file_and_not_in_a_unicode_string(tmp_path):
    with pytest.raises(ConfigError, match="line 2, column 1") as raised:
        parse_config("models: {m: {source: x}\npools: [\n", origin="a.yaml")
    assert "unicode string" not in str(raised.value)
    assert str(raised.value).startswith("a.yaml: not valid YAML")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"b\.yaml: cannot be read: not UTF-8 text"):
        load_config(tmp_path / "b.yaml")


@pytest.mark.parametrize(
    "wrong", [("--seed", "-1"), ("--requests-max", "0"), ("--duration-s", "0"), ("--start-s", "-1")]
)
def test_bounds_of_the_traffic_are_options_own(wrong, tmp_path):
    status, said = told("simulate", "-c", tmp_path, "-t", tmp_path, *wrong)
    assert status == 2
    assert wrong[0] in said


@pytest.mark.parametrize("command", ["simulate", "plan"])
def test_json_says_which_command_gave_it(command, tmp_path, monkeypatch):
    (tmp_path / "fleet.yaml").write_text(FLEET)
    (tmp_path / "t.csv").write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.68,374,4\n2023-11-16 18:15:50.9,396,9\n"
    )
    for module in ("simulate", "plan"):
        monkeypatch.setattr(f"operators.cli.{module}.circumstances", lambda _config: {"commit": "c"})
    monkeypatch.setattr("sys.argv", ["tidemill", command, "-t", "my file"])
    status, said = told(
        command, "-c", tmp_path / "fleet.yaml", "-t", tmp_path / "t.csv", "--seeds", "1", "--json"
    )
    assert status == 0
    found = json.loads(said[said.index('{"benchmark"') :].splitlines()[0])
    assert found["command"] == f"tidemill {command} -t 'my file'"
    assert found["commit"] == "c"
    assert {"case", "policy"} <= found["rows"][0].keys()
