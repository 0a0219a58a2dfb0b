"""`tidemill keys`: keys are shown once, kept as hashes, and end when they should."""

import json
import time

import pytest
from typer.testing import CliRunner

from deployments.tenants.keys import FileKeys, KeysUnreadableError, recognise
from operators.cli.app import app

CONFIG = """
models: {m: {source: simulated}}
pools: {p: {model: m, engine: {kind: simulated}}}
tenants:
  enabled: true
  tenants: {acme: {}, other: {}}
"""


@pytest.fixture
def keys(monkeypatch, tmp_path):
    """Runs `tidemill keys` and gives back the status and what was printed."""
    monkeypatch.setenv("TIDEMILL_STATE", str(tmp_path / "state"))
    config = tmp_path / "c.yaml"
    config.write_text(CONFIG)

    def run(*arguments, json_output=True):
        options = ["-c", str(config), *(["--json"] if json_output else [])]
        result = CliRunner().invoke(app, ["keys", *arguments, *options])
        if result.exit_code:
            return result.exit_code, result.output
        return 0, json.loads(result.stdout) if json_output else result.stdout

    run.file = tmp_path / "state" / "tenants" / "keys.json"
    run.known = lambda: FileKeys(run.file).read()
    return run


def test_a_key_is_shown_once_and_kept_as_a_hash(keys):
    status, made = keys("create", "acme", "--name", "ci", "--expires-days", "1")
    assert status == 0
    assert len(made["key"].split("-", 2)[2]) == 43
    assert made["key"] not in keys.file.read_text()
    assert keys.file.stat().st_mode & 0o077 == 0
    record = recognise(made["key"], keys.known())
    assert (record.tenant, record.name) == ("acme", "ci")
    assert record.is_valid(time.time() + 86_000)
    assert not record.is_valid(time.time() + 86_500)
    assert recognise(made["key"] + "x", keys.known()) is None
    _, listed = keys("list")
    assert [(entry["key_id"], entry["state"]) for entry in listed] == [(made["key_id"], "valid")]
    for command in (("list",), ("show", made["key_id"])):
        _, text = keys(*command, json_output=False)
        assert made["key_id"] in text
        assert made["key"] not in text
        assert record.sha256 not in text


def test_plain_output_is_the_key_alone_so_that_scripts_can_take_it(keys):
    _, text = keys("create", "acme", json_output=False)
    assert text.splitlines()[0].startswith("tm-")
    assert recognise(text.splitlines()[0], keys.known()).tenant == "acme"


def test_rotating_gives_a_new_key_and_ends_the_old_one_after_a_grace(keys):
    _, old = keys("create", "acme", "--name", "ci")
    _, new = keys("rotate", old["prefix"], "--grace-s", "60")
    assert (new["tenant"], new["name"]) == ("acme", "ci")
    found = recognise(old["key"], keys.known())
    assert found.is_valid(time.time() + 50)
    assert not found.is_valid(time.time() + 70)
    _, third = keys("rotate", new["key_id"])
    assert not recognise(new["key"], keys.known()).is_valid(time.time())
    assert recognise(third["key"], keys.known()).is_valid(time.time())
    status, message = keys("rotate", new["key_id"], json_output=False)
    assert status == 1
    assert "not valid any more" in message


def test_revoking_ends_a_key_and_says_nothing_of_it(keys):
    _, made = keys("create", "acme")
    status, told = keys("revoke", made["key"])  # somebody pastes the whole key
    assert (status, told["state"]) == (0, "revoked")
    assert not recognise(made["key"], keys.known()).is_valid(time.time())
    status, message = keys("revoke", "tm-0123456789ab-secret-of-somebody", json_output=False)
    assert status == 1
    assert "secret-of-somebody" not in message


def test_only_tenants_of_the_configuration_get_keys(keys):
    status, message = keys("create", "nobody", json_output=False)
    assert status == 1
    assert "tenants.tenants has: acme, other" in message


def test_damaged_keys_are_said_and_never_replaced(keys):
    keys("create", "acme")
    keys.file.write_text('{"keys": [{"key_id": ')
    status, message = keys("create", "acme", json_output=False)
    assert status == 1
    assert "cannot be read" in message
    assert keys.file.read_text() == '{"keys": [{"key_id": '
    with pytest.raises(KeysUnreadableError):
        keys.known()
