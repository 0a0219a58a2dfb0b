"""Files from which Grafana reads dashboards and data source itself, where nobody pushes them."""

import json
from pathlib import Path
from typing import Any

import yaml

from operators.dashboards.render import rendered

DATASOURCE_UID = "tidemill-prometheus"
DATASOURCE_NAME = "Tidemill Prometheus"
FOLDER_UID = "tidemill"
FOLDER_TITLE = "Tidemill"


def write_files(folder: Path, *, prometheus_url: str, mounted_at: str) -> list[Path]:
    """Write everything; the files that were written.

    Args:
        folder: `dashboards/` and `provisioning/` are made in it.
        prometheus_url: where Grafana reaches Prometheus.
        mounted_at: where Grafana will find `dashboards/`.
    """
    found = [
        _write(folder / "dashboards" / f"{name}.json", json.dumps(content, indent=1) + "\n")
        for name, content in rendered().items()
    ]
    provider = {
        "apiVersion": 1,
        "providers": [
            {
                "name": "tidemill",
                "folder": FOLDER_TITLE,
                "folderUid": FOLDER_UID,
                "type": "file",
                "allowUiUpdates": False,
                "options": {"path": mounted_at},
            }
        ],
    }
    source = {
        "apiVersion": 1,
        "datasources": [
            {
                "name": DATASOURCE_NAME,
                "uid": DATASOURCE_UID,
                "type": "prometheus",
                "access": "proxy",
                "url": prometheus_url,
                "jsonData": {"httpMethod": "POST", "timeInterval": "5s"},
            }
        ],
    }
    for name, content in (("dashboards", provider), ("datasources", source)):
        found.append(_write(folder / "provisioning" / name / "tidemill.yaml", _yaml(content)))
    return found


def _yaml(content: dict[str, Any]) -> str:
    return yaml.safe_dump(content, sort_keys=False)


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path
