"""`tidemill dashboards`: brings the dashboards into a Grafana, or into files that it reads."""

import json
from pathlib import Path

from operators.cli.console import CliError, reporter_for
from operators.dashboards.grafana import GrafanaError, GrafanaPublisher, Pushed
from operators.dashboards.provisioning import (
    DATASOURCE_NAME,
    DATASOURCE_UID,
    FOLDER_TITLE,
    FOLDER_UID,
    write_files,
)
from operators.dashboards.render import rendered


def push(*, url: str, token_file: Path, prometheus_url: str, verify: bool, json_output: bool) -> None:
    """Create or update folder, data source and dashboards; running it again changes nothing.

    Raises:
        CliError: the token cannot be read, or Grafana refused.
    """
    reporter = reporter_for(json_events=json_output)
    try:
        publisher = GrafanaPublisher(url, _token(token_file), verify=verify)
        steps = [
            publisher.folder(FOLDER_UID, FOLDER_TITLE),
            publisher.datasource(DATASOURCE_UID, DATASOURCE_NAME, prometheus_url),
        ]
        _tell(steps, json_output=json_output)
        for dashboard in rendered().values():
            _tell([publisher.dashboard(dashboard, FOLDER_UID)], json_output=json_output)
    except GrafanaError as error:
        raise CliError(str(error)) from error
    reporter.event("pushed", f"dashboards are at {url.rstrip('/')}/dashboards/f/{FOLDER_UID}")


def export(folder: Path, *, prometheus_url: str, mounted_at: str, json_output: bool) -> None:
    """Write files for Grafana's file provisioning.

    Raises:
        CliError: they cannot be written.
    """
    try:
        files = write_files(folder, prometheus_url=prometheus_url, mounted_at=mounted_at)
    except OSError as error:
        raise CliError(f"{folder} cannot be written to: {error}") from error
    if json_output:
        print(json.dumps({"files": [str(path) for path in files]}))
        return
    for path in files:
        print(path)


def _token(path: Path) -> str:
    try:
        token = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise CliError(f"the token cannot be read: {error}", exit_code=2) from error
    if not token or any(character.isspace() for character in token):
        raise CliError(f"{path} does not hold a token and nothing else", exit_code=2)
    return token


def _tell(steps: list[Pushed], *, json_output: bool) -> None:
    reporter = reporter_for(json_events=json_output)
    for step in steps:
        text = f"{step.kind} {step.uid}: {step.result}"
        reporter.event("item", text, kind=step.kind, uid=step.uid, result=step.result)
