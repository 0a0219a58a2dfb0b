"""What is typed wrongly, or when nothing runs, ends in one line and the right status; no tracebacks."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from cluster.config import parse_config
from deployments.engine.weights import WeightsError
from operators.cli import up as up_module
from operators.cli.app import app
from operators.cli.chat import Conversation, deltas
from operators.cli.console import CliError, JsonReporter, PlainReporter, reporter_for
from operators.cli.deployment import gateway_base_url
from operators.cli.gateway_client import refusal
from operators.cli.state import load_state
from operators.cli.status import fleet_table
from operators.cli.stop_signals import StopRequested, StopSignals

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CliRunner:
    monkeypatch.setenv("TIDEMILL_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("TIDEMILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return CliRunner()


@pytest.mark.parametrize("command", [["status"], ["chat"], ["explain", "d-1"]])
def test_nothing_runs(runner: CliRunner, command: list[str]) -> None:
    result = runner.invoke(app, command)
    assert result.exit_code == 1
    assert result.output.startswith("tidemill: no Tidemill cluster runs here")
    assert result.output.count("\n") == 1


def test_down_with_nothing_running_is_fine(runner: CliRunner) -> None:
    result = runner.invoke(app, ["down"])
    assert (result.exit_code, result.output) == (0, "nothing runs\n")


def test_json_errors_are_events(runner: CliRunner) -> None:
    result = runner.invoke(app, ["status", "--json"])
    assert json.loads(result.stdout)["event"] == "error"


@pytest.mark.parametrize("command", [["explain"], ["nosuch"], ["up", "--nosuch"]])
def test_wrong_use_has_status_2(runner: CliRunner, command: list[str]) -> None:
    assert runner.invoke(app, command).exit_code == 2


def test_a_bad_configuration_is_named_and_has_status_2(runner: CliRunner, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("models: {m: {source: x}}\npools: {p: {model: m, replica: 2}}\n")
    result = runner.invoke(app, ["up", "-c", str(path)])
    assert result.exit_code == 2
    assert "pools.p.replica: unknown field; did you mean 'replicas'?" in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    "command",
    [["keys", "list"], ["metrics", "scrape-config", "--for", "kubernetes"], ["render", "-o", "out"]],
)
def test_every_command_says_what_is_wrong_with_a_configuration(
    runner: CliRunner, tmp_path: Path, command: list[str]
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("models: {m: {source: x}}\npools: {p: {model: m, replica: 2}}\n")
    result = runner.invoke(app, [*command, "-c", str(path)])
    assert result.exit_code == 2
    assert "pools.p.replica: unknown field; did you mean 'replicas'?" in result.output


def test_a_model_that_does_not_fit_is_found_before_anything_starts(runner: CliRunner, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        "models: {m: {source: s, architecture: llama-3.1-70b}}\npools: {p: {model: m, gpu_type: L4}}\n"
    )
    result = runner.invoke(app, ["up", "-c", str(path)])
    assert result.exit_code == 2
    assert "pools.p: llama-3.1-70b needs 141 GB" in result.output


def test_version_is_that_of_the_project(runner: CliRunner) -> None:
    assert runner.invoke(app, ["--version"]).output == "tidemill 0.1.0\n"


def test_help_imports_none_of_the_heavy_packages() -> None:
    code = (
        "import sys\nfrom operators.cli.app import app\n"
        "heavy = {'ray', 'torch', 'vllm', 'pydantic', 'httpx', 'psutil'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_clients_are_told_an_address_they_can_reach() -> None:
    base = "models: {m: {source: simulated}}\npools: {p: {model: m, engine: {kind: simulated}}}\n"
    assert gateway_base_url(parse_config(base)) == "http://127.0.0.1:8000"
    everywhere = parse_config(base + "gateway: {host: 0.0.0.0, port: 9000, allow_without_keys: true}\n")
    assert gateway_base_url(everywhere) == "http://127.0.0.1:9000"


def test_refusals_carry_the_gateways_own_words() -> None:
    body = {"error": {"message": "No decision 'x'.", "type": "not_found"}}
    assert refusal(httpx.Response(404, json=body)) == "the gateway answered 404: No decision 'x'."
    assert refusal(httpx.Response(502, text="bad")) == "the gateway answered 502: bad"


def test_reporters_say_what_is_done_and_what_failed(capsys: pytest.CaptureFixture[str]) -> None:
    plain = PlainReporter(sys.stdout, sys.stderr)
    with plain.step("loading"):
        plain.note("half")
    with pytest.raises(CliError), plain.step("breaking"):
        raise CliError("x")
    plain.error("no", ("because",))
    shown = capsys.readouterr()
    assert shown.out.startswith("loading …\nhalf\nloading: done in ")
    assert "breaking: done" not in shown.out
    assert shown.err == "tidemill: no\n  because\n"
    JsonReporter(sys.stdout).event("ready", "tidemill is ready: u", url="u")
    assert json.loads(capsys.readouterr().out) == {
        "event": "ready",
        "text": "tidemill is ready: u",
        "url": "u",
    }


class _Gone(io.StringIO):
    def write(self, text):
        raise BrokenPipeError(text)

    def flush(self):
        raise BrokenPipeError


@pytest.mark.parametrize("json_events", [True, False])
@pytest.mark.parametrize("terminal", [True, False])
def test_a_reader_who_has_gone_keeps_no_command_from_cleaning_up(monkeypatch, json_events, terminal):
    gone = _Gone()
    monkeypatch.setattr(gone, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stdout", gone)
    monkeypatch.setattr(sys, "stderr", gone)
    with pytest.raises(BrokenPipeError):
        gone.write("what is lost")
    reporter = reporter_for(json_events=json_events)
    with reporter.step("starting Ray"):
        reporter.note("stopping")
    reporter.error("it failed", ("why",))
    reporter.event("stopped", "stopped")


def test_fleet_table_has_a_row_per_replica_in_pool_order() -> None:
    replicas = [
        {
            "replica_id": "b",
            "pool": "p2",
            "phase": "draining",
            "requests_in_flight": 3,
            "kv_cache_usage": 0.42,
        },
        {"replica_id": "a", "pool": "p1", "phase": "ready"},
    ]
    table = fleet_table(replicas)
    cells = {str(column.header): list(column.cells) for column in table.columns}
    assert cells["replica"] == ["a", "b"]
    assert cells["KV use"] == ["0 %", "42 %"]
    assert cells["in flight"][1].startswith("3/")


def test_chat_reads_text_and_stops_at_done() -> None:
    lines = [
        ": comment",
        'data: {"choices": [{"delta": {"role": "assistant"}}]}',
        "",
        'data: {"choices": [{"delta": {"content": "He"}}]}',
        'data: {"choices": [{"delta": {"content": "llo"}}]}',
        'data: {"choices": [], "usage": {}}',
        "data: [DONE]",
        'data: {"choices": [{"delta": {"content": "never"}}]}',
    ]
    assert "".join(deltas(iter(lines))) == "Hello"
    with pytest.raises(CliError, match="broke off: engine died"):
        list(deltas(iter(['data: {"error": {"message": "engine died"}}'])))


def test_conversation_is_sent_whole_and_bounded() -> None:
    talk = Conversation(system="Be brief.")
    talk.remember("a", "b")
    roles = [message["role"] for message in talk.request("m", "c")["messages"]]
    assert roles == ["system", "user", "assistant", "user"]
    for number in range(500):
        talk.remember(str(number), "x")
    assert len(talk.messages) == 200


def test_first_signal_stops_and_only_a_later_ctrl_c_kills(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [100.0]
    monkeypatch.setattr("operators.cli.stop_signals.time.monotonic", lambda: now_s[0])
    with StopSignals():
        with pytest.raises(StopRequested):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)  # the same stop, sent to the group as well
        now_s[0] += 2
        signal.raise_signal(signal.SIGTERM)  # a supervisor that repeats itself
        with pytest.raises(StopRequested):
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # killing already
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_purging_leaves_nothing_that_a_cluster_writes(runner: CliRunner, tmp_path: Path) -> None:
    written = (
        *("admin-key", "up.log", "decisions/r.jsonl", "requests/r.jsonl", "model-routing/linucb.json"),
        *("provisioning/state.json", "prometheus/targets.json", "tenants/keys.json", "adapters/a/node.json"),
        *("adapter-coordinator/catalogue.json", "semantic-cache/near.sqlite", "job-code/cluster/a.py"),
    )
    for name in written:
        (tmp_path / "state" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "state" / name).write_text("x")
    assert runner.invoke(app, ["down", "--purge"]).exit_code == 0
    assert not (tmp_path / "state").exists()


def test_a_cluster_that_is_still_making_weights_is_running(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("models: {m: {source: simulated}}\npools: {p: {model: m, engine: {kind: simulated}}}\n")
    seen = []

    def weights(*_: object) -> str:
        state = load_state(tmp_path / "state")
        seen.append(None if state is None else (state.running_pid, state.phase))
        raise WeightsError("enough")

    monkeypatch.setattr(up_module, "resolve_weights", weights)
    monkeypatch.setattr(up_module, "problems", lambda *_: [])
    assert runner.invoke(app, ["up", "-c", str(path)]).exit_code == 1
    assert seen == [(os.getpid(), "starting")], "`tidemill down` from another terminal finds and ends it"
    assert load_state(tmp_path / "state") is None
