"""A real Prometheus that watches a test's cluster as docs/operations.md says."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from load_tests.chaos.cluster import free_ports
from tests.serve.conftest import Cluster

BINARY = shutil.which("prometheus")
needs_prometheus = pytest.mark.skipif(
    BINARY is None, reason="prometheus is not installed (Debian package prometheus)"
)
_READY_S = 20.0


class Prometheus:
    """What it is asked."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=10, trust_env=False)

    def get(self, path: str, **parameters: str) -> Any:
        answer = self._client.get(f"/api/v1/{path}", params=parameters)
        content = answer.json()
        assert content["status"] == "success", f"{path} {parameters}: {content}"
        return content["data"]

    def query(self, expr: str) -> list[dict[str, Any]]:
        """The series of an instant query; fails if Prometheus does not take it."""
        found: list[dict[str, Any]] = self.get("query", query=expr)["result"]
        return found

    def ready(self) -> bool:
        try:
            return self._client.get("/-/ready").status_code == 200
        except httpx.HTTPError:
            return False


@contextmanager
def watching(cluster: Cluster, folder: Path) -> Iterator[Prometheus]:
    """Prometheus with the printed configuration, only scraping every second."""
    assert BINARY is not None
    printed = {
        "prometheus.yaml": cluster.run("metrics", "scrape-config", "-o", str(folder / "prometheus.yaml")),
        "alerts.yaml": cluster.run("metrics", "alerts", "-o", str(folder / "alerts.yaml")),
    }
    for done in printed.values():
        assert done.returncode == 0, done.stderr
    config = yaml.safe_load((folder / "prometheus.yaml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    for job in config["scrape_configs"]:
        job["file_sd_configs"][0]["refresh_interval"] = "1s"
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    (port,) = free_ports(1)
    command = [BINARY, f"--config.file={folder / 'prometheus.yaml'}", "--log.level=warn"]
    command += [f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{port}"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
    try:
        prometheus = Prometheus(f"http://127.0.0.1:{port}")
        deadline_s = time.monotonic() + _READY_S
        while not prometheus.ready():
            assert process.poll() is None, (folder / "prometheus.log").read_text()
            assert time.monotonic() < deadline_s, "Prometheus did not become ready"
            time.sleep(0.1)
        yield prometheus
    finally:
        process.terminate()
        process.wait(20)


def exposed(targets: list[dict[str, Any]]) -> dict[str, str]:
    """Every metric family that the targets show, with its type, samples or none."""
    found: dict[str, str] = {}
    for group in targets:
        for address in group["targets"]:
            text = httpx.get(f"http://{address}/metrics", timeout=10).text
            for line in text.splitlines():
                if line.startswith("# TYPE "):
                    _, _, name, kind = line.split()
                    found[name] = kind
    return found
