"""`tidemill metrics`: prints or writes what Prometheus reads."""

import json
import os
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from cluster.config import TidemillConfig
from operators.cli.configuration import read_config
from operators.cli.console import CliError
from operators.cli.gateway_client import admin_get
from operators.cli.state import state_dir_of
from operators.prometheus.alerts import alert_rules
from operators.prometheus.scrape_config import kubernetes_config, local_config, operator_objects

_WIDTH = 160


def targets(*, json_output: bool, url: str | None) -> None:
    """Print what there is to scrape.

    Raises:
        CliError: nothing runs or the gateway refused.
    """
    found = admin_get("/admin/targets", url=url)
    if json_output:
        print(json.dumps(found))
        return
    table = Table("job", "address", "replica", "pool")
    for group in found:
        labels = group["labels"]
        table.add_row(labels["job"], ", ".join(group["targets"]), labels["replica"], labels.get("pool", ""))
    Console(width=_WIDTH).print(table)


def scrape_config(
    place: str,
    *,
    config_path: Path | None,
    gateway_url: str | None,
    key_file: str,
    output: Path | None,
    json_output: bool,
) -> None:
    """Print or write a configuration of Prometheus.

    Args:
        place: `local`, `kubernetes` or `operator`.
        config_path: names the namespace and the Service; needed for the latter two.
        gateway_url: in place of the Service's.
        key_file: where the admin key is, for `kubernetes`.
        output: a file to write.
        json_output: JSON in place of YAML.

    Raises:
        CliError: the configuration is missing or wrong.
    """
    if place == "local":
        _give(local_config(state_dir_of(os.environ)), output, json_output=json_output)
        return
    config = _configuration(config_path)
    kubernetes = config.kubernetes
    url = gateway_url or f"http://{kubernetes.name}-gateway.{kubernetes.namespace}:{config.gateway.port}"
    if place == "kubernetes":
        found = kubernetes_config(gateway_url=url, namespace=kubernetes.namespace, key_file=key_file)
        _give(found, output, json_output=json_output)
        return
    objects = operator_objects(
        gateway_url=url,
        namespace=kubernetes.namespace,
        secret=kubernetes.secrets.admin_key.name,
        secret_key=kubernetes.secrets.admin_key.key,
        rules=alert_rules(),
    )
    _give(objects, output, json_output=json_output)


def alerts(*, output: Path | None, json_output: bool) -> None:
    """Print or write the alert rules."""
    _give(alert_rules(), output, json_output=json_output)


def _configuration(path: Path | None) -> TidemillConfig:
    if path is None:
        raise CliError(
            "name the cluster's configuration with -c: it says where it is on Kubernetes", exit_code=2
        )
    return read_config(path)


def _give(content: Any, output: Path | None, *, json_output: bool) -> None:
    """Print it, or write it; several documents are one YAML stream."""
    if json_output:
        text = json.dumps(content, indent=1) + "\n"
    elif isinstance(content, list):
        text = yaml.safe_dump_all(content, sort_keys=False, width=1000)
    else:
        text = yaml.safe_dump(content, sort_keys=False, width=1000)
    if output is None:
        print(text, end="")
        return
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CliError(f"{output} cannot be written: {error}") from error
    print(output)
