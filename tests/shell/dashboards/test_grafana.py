"""The publisher against a server that answers as Grafana does."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from operators.cli.app import app
from operators.dashboards.grafana import GrafanaError, GrafanaPublisher
from operators.dashboards.render import rendered
from tests.shell.dashboards.grafana_double import TOKEN, Grafana, serving


@pytest.fixture(params=["", "/grafana"], ids=["root", "below a path"])
def grafana(request: pytest.FixtureRequest) -> Iterator[Grafana]:
    with serving(Grafana(request.param)) as running:
        yield running


@pytest.fixture
def plain() -> Iterator[Grafana]:
    with serving(Grafana()) as running:
        yield running


def _push(grafana: Grafana, token_file: Path, *more: str) -> tuple[int, list[dict[str, str]], str]:
    arguments = ["dashboards", "push", "--url", grafana.url, "--token-file", str(token_file), "--json", *more]
    done = CliRunner().invoke(app, arguments)
    return done.exit_code, [json.loads(line) for line in done.output.splitlines()], done.output


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n")
    return path


def test_pushing_creates_everything_and_pushing_again_changes_nothing(
    grafana: Grafana, token_file: Path
) -> None:
    status, events, output = _push(grafana, token_file)
    assert status == 0, output
    assert {event["result"] for event in events if event["event"] == "item"} == {"created"}
    assert set(grafana.folders) == {"tidemill"}
    assert grafana.datasources["tidemill-prometheus"]["url"] == "http://prometheus:9090"
    assert set(grafana.dashboards) == {f"tidemill-{name}" for name in rendered()}
    assert all(found["meta"]["folderUid"] == "tidemill" for found in grafana.dashboards.values())
    grafana.writes.clear()
    status, events, output = _push(grafana, token_file)
    assert status == 0, output
    assert {event["result"] for event in events if event["event"] == "item"} == {"unchanged"}
    assert grafana.writes == []


def test_what_somebody_changed_is_put_right(plain: Grafana, token_file: Path) -> None:
    _push(plain, token_file)
    plain.dashboards["tidemill-fleet"]["dashboard"]["title"] = "Mine"
    plain.dashboards["tidemill-cache"]["meta"]["folderUid"] = "elsewhere"
    plain.datasources["tidemill-prometheus"]["isDefault"] = True
    status, events, output = _push(plain, token_file, "--prometheus-url", "http://other:9090")
    assert status == 0, output
    changed = {event["uid"] for event in events if event.get("result") == "updated"}
    assert changed == {"tidemill-fleet", "tidemill-cache", "tidemill-prometheus"}
    assert plain.dashboards["tidemill-fleet"]["dashboard"]["title"] == "Tidemill: Fleet"
    assert plain.datasources["tidemill-prometheus"]["url"] == "http://other:9090"
    assert plain.datasources["tidemill-prometheus"]["isDefault"] is True, "that is the user's business"


def test_numeric_ids_are_never_used(plain: Grafana, token_file: Path) -> None:
    for _ in range(2):
        _push(plain, token_file)
    used = [path for method, path in plain.writes if method != "POST"]
    assert all(not path.rsplit("/", 1)[1].isdigit() for path in used)
    assert plain.answer("GET", "/api/datasources/1", f"Bearer {TOKEN}", None)[0] == 404


def test_a_name_that_is_taken_is_said(plain: Grafana, token_file: Path) -> None:
    plain.datasources["other"] = {"uid": "other", "name": "Tidemill Prometheus"}
    status, events, _ = _push(plain, token_file)
    assert status == 1
    assert "another one of that name" in events[-1]["message"]


def test_a_data_source_from_a_file_is_left_alone(plain: Grafana) -> None:
    publisher = GrafanaPublisher(plain.url, TOKEN)
    publisher.datasource("x", "X", "http://a")
    plain.datasources["x"]["readOnly"] = True
    with pytest.raises(GrafanaError, match="provisioned from a file"):
        publisher.datasource("x", "X", "http://b")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ((401, "application/json", '{"message": "Invalid API key"}'), "the token is wrong"),
        ((403, "application/json", '{"message": "Access denied"}'), "needs the role Editor"),
        ((500, "text/html", "<html>message in a bottle</html>"), "an error that is no JSON"),
        ((502, "text/html", "<html>Bad Gateway</html>"), "Server Error 502"),
        ((400, "application/json", '["bad"]'), "Bad Input"),
        ((200, "application/json", ""), "as a Grafana does"),
        ((200, "text/html", "<html>login</html>"), "as a Grafana does"),
        ((200, "application/json", "[]"), "as a Grafana does"),
    ],
)
def test_every_failure_is_one_line_that_says_what(
    plain: Grafana, token_file: Path, fault: tuple[int, str, str], said: str
) -> None:
    plain.fault = fault
    status, events, output = _push(plain, token_file)
    assert status == 1, output
    assert said in events[-1]["message"]
    assert "\n" not in events[-1]["message"]


def test_nobody_there_is_said(token_file: Path) -> None:
    with serving(Grafana()) as gone:
        pass
    status, events, _ = _push(gone, token_file)
    assert status == 1
    assert "does not answer" in events[-1]["message"]


@pytest.mark.parametrize(
    "url", ["grafana.example.com", "ftp://x", "http://", "http://x:port", "http://user:secret@x"]
)
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(GrafanaError):
        GrafanaPublisher(url, TOKEN)


def test_a_token_file_must_hold_a_token(plain: Grafana, tmp_path: Path) -> None:
    for content in ("", "two words"):
        (tmp_path / "token").write_text(content)
        status, events, _ = _push(plain, tmp_path / "token")
        assert status == 2
        assert "token" in events[-1]["message"]
    status, _, _ = _push(plain, tmp_path / "absent")
    assert status == 2


def test_export_writes_what_would_be_pushed(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["dashboards", "export", "-o", str(tmp_path), "--json"])
    assert done.exit_code == 0, done.output
    written = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "dashboards").glob("*.json")}
    assert written == rendered()
    assert len(json.loads(done.output)["files"]) == len(written) + 2
