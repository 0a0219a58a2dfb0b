"""Commands that ask a gateway say it when the address or the key is wrong."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from operators.cli.app import app
from operators.cli.state import own_state, save_state


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CliRunner:
    monkeypatch.setenv("TIDEMILL_STATE", str(tmp_path / "state"))
    return CliRunner()


class Elsewhere(BaseHTTPRequestHandler):
    """Some other web server: every page is there and none is Tidemill's."""

    def do_GET(self) -> None:
        body = b"<html>It works!</html>"
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815 - the names that the library looks for

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def elsewhere() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    "command", [["status"], ["usage"], ["cache", "stats"], ["adapters", "list"], ["chat"], ["bench"]]
)
def test_an_address_where_something_else_answers_is_said_to_be_wrong(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch, elsewhere: str, command: list[str]
) -> None:
    monkeypatch.setenv("TIDEMILL_ADMIN_KEY", "k")
    result = runner.invoke(app, [*command, "--url", elsewhere])
    assert result.exit_code == 1
    assert f"{elsewhere} does not answer as a Tidemill gateway does; is the address right?" in result.output


def test_a_chat_with_something_else_is_no_answer(runner: CliRunner, elsewhere: str) -> None:
    result = runner.invoke(app, ["chat", "-m", "m", "--url", elsewhere], input="hi\n")
    assert result.exit_code == 1
    assert "no stream of events came" in result.output


@pytest.mark.parametrize("command", [["status"], ["chat"], ["bench"]])
@pytest.mark.parametrize("url", ["127.0.0.1:8000", "nonsense", "ftp://host", "http://"])
def test_an_address_that_is_none_is_said_with_an_example(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch, command: list[str], url: str
) -> None:
    monkeypatch.setenv("TIDEMILL_ADMIN_KEY", "k")
    result = runner.invoke(app, [*command, "--url", url])
    assert result.exit_code == 2
    assert f"{url} is not the address of a gateway, such as http://127.0.0.1:8000" in result.output


@pytest.mark.parametrize("key", ["schlüssel", "two\nlines", "a b"])
@pytest.mark.parametrize(("variable", "command"), [("ADMIN", "status"), ("API", "chat"), ("API", "bench")])
def test_a_key_that_no_header_can_carry_is_not_sent(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch, variable: str, command: str, key: str
) -> None:
    monkeypatch.setenv(f"TIDEMILL_{variable}_KEY", key)
    result = runner.invoke(app, [command, "--url", "http://127.0.0.1:1"])
    assert result.exit_code == 1
    assert f"what TIDEMILL_{variable}_KEY holds is no key" in result.output
    assert key not in result.output


def test_the_cluster_here_is_known_by_its_address_too(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, elsewhere: str
) -> None:
    monkeypatch.delenv("TIDEMILL_ADMIN_KEY", raising=False)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "admin-key").write_text("k")
    fields = {"phase": "ready", "config_path": "", "admin_key_env": "TIDEMILL_ADMIN_KEY"}
    key_path = str(tmp_path / "state" / "admin-key")
    save_state(tmp_path / "state", own_state(url=elsewhere, admin_key_path=key_path, **fields))
    result = runner.invoke(app, ["status", "--url", f"{elsewhere}/v1"])
    assert "does not answer as a Tidemill gateway does" in result.output, "it was asked, with the key"
    assert "set TIDEMILL_ADMIN_KEY" in runner.invoke(app, ["status", "--url", "http://other"]).output
