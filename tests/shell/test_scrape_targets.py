"""What Prometheus is told to scrape, from the router's answer to the file on disk."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from cluster.config import parse_config
from cluster.entities.pool import ReplicaReport
from deployments.messages import ROUTER, SEMANTIC_CACHE, ServiceReport
from deployments.router.pages.scrape_targets import target_groups
from operators.cli.app import app
from operators.prometheus.targets import TargetsFile, ray_groups
from tests.replica_reports import replica_report

_CONFIG = parse_config(
    "models: {sim: {source: simulated}}\npools: {decode: {model: sim, engine: {kind: simulated}}}"
)


def _service(name: str, port: int) -> ServiceReport:
    return ServiceReport(
        service=name, replica_id=f"{name}-1", url=f"http://127.0.0.1:{port}", observed_at_s=0.0
    )


def _replica(name: str) -> ReplicaReport:
    return replica_report(name, url="http://10.0.0.1:7001")


def test_every_process_is_a_group_with_its_labels() -> None:
    services = (_service(ROUTER, 1), _service(SEMANTIC_CACHE, 2), _service("something else", 3))
    assert target_groups([_replica("decode-1")], services) == [
        {
            "targets": ["127.0.0.1:2"],
            "labels": {"job": "tidemill-cache", "replica": "semantic_cache-1"},
        },
        {"targets": ["127.0.0.1:1"], "labels": {"job": "tidemill-router", "replica": "router-1"}},
        {
            "targets": ["10.0.0.1:7001"],
            "labels": {
                "job": "vllm",
                "replica": "decode-1",
                "pool": "decode",
                "model": "sim",
                "role": "decode",
                "gpu_type": "cpu",
            },
        },
    ]


class Gateway:
    """Answers `/admin/targets`, or fails."""

    def __init__(self) -> None:
        self.groups: list[dict[str, Any]] = [{"targets": ["127.0.0.1:1"], "labels": {"job": "vllm"}}]
        self.status = 200
        self.asked_with: list[str] = []
        self.url = ""


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    told = Gateway()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told.asked_with.append(self.headers["authorization"])
            content = json.dumps(told.groups).encode()
            self.send_response(told.status if self.path == "/admin/targets" else 404)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    told.url = f"http://127.0.0.1:{server.server_port}"
    yield told
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_file_follows_the_fleet(gateway: Gateway, tmp_path: Path) -> None:
    now = [0.0]
    file = TargetsFile(
        _CONFIG,
        base_url=gateway.url,
        admin_key="secret",
        state_dir=tmp_path / "state",
        runtime_dir=tmp_path / "run",
        now_s=lambda: now[0],
    )
    file.refresh()
    haproxy = f"127.0.0.1:{_CONFIG.local_cluster.haproxy_metrics_port}"
    assert json.loads(file.path.read_text()) == [
        *gateway.groups,
        {"targets": [haproxy], "labels": {"job": "haproxy"}},
    ]
    assert gateway.asked_with == ["Bearer secret"]

    (tmp_path / "run" / "ray").mkdir(parents=True)
    (tmp_path / "run" / "ray" / "prom_metrics_service_discovery.json").write_text(
        json.dumps([{"labels": {"job": "ray"}, "targets": ["127.0.0.1:9", "127.0.0.1:8"]}])
    )
    now[0] = 1.0
    file.refresh()
    assert len(gateway.asked_with) == 1, "not every time"
    now[0] = 6.0
    file.refresh()
    assert json.loads(file.path.read_text())[-1] == {
        "targets": ["127.0.0.1:8", "127.0.0.1:9"],
        "labels": {"job": "ray"},
    }
    before = file.path.read_text()
    gateway.status = 503
    now[0] = 12.0
    file.refresh()
    assert file.path.read_text() == before, "a gateway that is away changes nothing"


def test_ray_has_not_said_anything_yet(tmp_path: Path) -> None:
    assert ray_groups(tmp_path / "absent.json") == []
    (tmp_path / "half.json").write_text("[{")
    assert ray_groups(tmp_path / "half.json") == []


def _run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["metrics", *arguments])
    return done.exit_code, done.output


@pytest.fixture
def configured(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(
        "models: {sim: {source: simulated}}\npools: {decode: {model: sim, engine: {kind: simulated}}}\n"
        "kubernetes: {namespace: serving, name: tide}\ngateway: {port: 8080}\n"
    )
    return path


def test_on_kubernetes_the_gateway_is_asked_and_pods_are_found(configured: Path) -> None:
    status, output = _run("scrape-config", "--for", "kubernetes", "-c", str(configured))
    assert status == 0, output
    jobs = {job["job_name"]: job for job in yaml.safe_load(output)["scrape_configs"]}
    assert jobs["tidemill"]["http_sd_configs"][0]["url"] == "http://tide-gateway.serving:8080/admin/targets"
    for name, port in (("ray", "metrics"), ("haproxy", "haproxy-metrics")):
        (found,) = jobs[name]["kubernetes_sd_configs"]
        assert found == {"role": "pod", "namespaces": {"names": ["serving"]}}
        kept = {
            rule["source_labels"][0]: rule["regex"]
            for rule in jobs[name]["relabel_configs"]
            if rule.get("action") == "keep"
        }
        assert kept == {
            "__meta_kubernetes_pod_labelpresent_ray_io_cluster": "true",
            "__meta_kubernetes_pod_container_port_name": port,
        }


def test_under_the_operator_there_are_three_objects(configured: Path) -> None:
    status, output = _run("scrape-config", "--for", "operator", "-c", str(configured))
    assert status == 0, output
    objects = {found["kind"]: found for found in yaml.safe_load_all(output)}
    assert set(objects) == {"PodMonitor", "ScrapeConfig", "PrometheusRule"}
    assert {found["metadata"]["namespace"] for found in objects.values()} == {"serving"}
    (asked,) = objects["ScrapeConfig"]["spec"]["httpSDConfigs"]
    assert asked["authorization"]["credentials"] == {"name": "tidemill-admin-key", "key": "key"}
    assert objects["PrometheusRule"]["spec"]["groups"]


def test_ports_are_named_as_in_the_manifests() -> None:
    root = Path(__file__).parents[2]
    (cluster,) = [
        found
        for found in yaml.safe_load_all((root / "k8s/base/ray-cluster.yaml").read_text())
        if found["kind"] == "RayCluster"
    ]
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    for group in groups:
        ports = {
            port["name"]
            for container in group["template"]["spec"]["containers"]
            for port in container.get("ports", ())
        }
        assert {"metrics", "haproxy-metrics"} <= ports


def test_kubernetes_needs_a_configuration(tmp_path: Path) -> None:
    assert _run("scrape-config", "--for", "kubernetes")[0] == 2
    (tmp_path / "wrong.yaml").write_text("models: {}\n")
    assert _run("scrape-config", "--for", "operator", "-c", str(tmp_path / "wrong.yaml"))[0] == 2


def test_rules_are_written_where_the_configuration_reads_them(tmp_path: Path) -> None:
    status, _ = _run("alerts", "-o", str(tmp_path / "alerts.yaml"))
    assert status == 0
    assert _run("scrape-config", "-o", str(tmp_path / "prometheus.yaml"))[0] == 0
    config = yaml.safe_load((tmp_path / "prometheus.yaml").read_text())
    assert (tmp_path / config["rule_files"][0]).is_file()
