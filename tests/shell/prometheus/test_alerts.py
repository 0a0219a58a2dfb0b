"""The alert rules, checked and tried by promtool."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from operators.prometheus.alerts import alert_rules, burn_alerts, health_alerts
from operators.prometheus.scrape_config import kubernetes_config, local_config

PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is not installed (Debian package prometheus)"
)
ROOT = Path(__file__).parents[3]


def _promtool(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    assert PROMTOOL is not None
    return subprocess.run(
        [PROMTOOL, *arguments], cwd=folder, capture_output=True, text=True, timeout=50, check=False
    )


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    path = tmp_path / "alerts.yaml"
    path.write_text(yaml.safe_dump(alert_rules(), width=1000))
    return path


@needs_promtool
def test_the_rules_are_sound(rules: Path) -> None:
    done = _promtool("check", "rules", rules.name, folder=rules.parent)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_a_broken_rule_would_be_noticed(rules: Path) -> None:
    rules.write_text(rules.read_text().replace("sum by (model)", "sum by model"))
    assert _promtool("check", "rules", rules.name, folder=rules.parent).returncode != 0


@needs_promtool
def test_the_configurations_are_sound(rules: Path) -> None:
    folder = rules.parent
    (folder / "key").write_text("k")
    kubernetes = kubernetes_config(gateway_url="http://g:8000", namespace="t", key_file="key")
    # Debian builds its Prometheus without discovery by Kubernetes, so only the part that asks the gateway.
    asking = [job for job in kubernetes["scrape_configs"] if "http_sd_configs" in job]
    assert [job["job_name"] for job in asking] == ["tidemill"]
    for name, content in (
        ("local", local_config(folder)),
        ("kubernetes", {**kubernetes, "scrape_configs": asking}),
    ):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
        done = _promtool("check", "config", f"{name}.yaml", folder=folder)
        assert done.returncode == 0, done.stdout + done.stderr


def _series(name: str, values: str, **labels: str) -> dict[str, str]:
    inner = ", ".join(f'{label}="{value}"' for label, value in labels.items())
    return {"series": f"{name}{{{inner}}}", "values": values}


def _slo(met: str, missed: str, target: float = 0.95) -> list[dict[str, str]]:
    counted = "tidemill_slo_requests_total"
    return [
        _series(counted, met, model="m", result="met", replica="r1"),
        _series(counted, missed, model="m", result="missed", replica="r1"),
        _series("tidemill_slo_target_ratio", f"{target}x1500", model="m", replica="r1"),
    ]


CASES: list[tuple[str, list[dict[str, str]], str, str, list[dict[str, str]]]] = [
    # (what, series, time, alert, labels of those that fire)
    (
        "every request fails",
        _slo("0x120", "0+60x120"),
        "70m",
        "TidemillObjectivesMissedFast",
        [{"model": "m", "severity": "page", "window": "1h"}],
    ),
    (
        "four in a hundred are missed, five are allowed",
        _slo("0+96x120", "0+4x120"),
        "70m",
        "TidemillObjectivesMissedFast",
        [],
    ),
    ("one request fails at night", _slo("100x120", "0x60 1x60"), "64m", "TidemillObjectivesMissedFast", []),
    (
        "the few that come fail for hours",
        _slo("0x430", "0x30 1x10 2x10 3x10 4x10 5x10 6x10 7x10 8x10 9+0.1x310"),
        "7h",
        "TidemillObjectivesMissedSteady",
        [{"model": "m", "severity": "page", "window": "6h"}],
    ),
    ("it is over", _slo("0x60 0+60x60", "0+60x60 3600x60"), "75m", "TidemillObjectivesMissedFast", []),
    (
        "a third is missed for hours",
        _slo("0+66x430", "0+34x430"),
        "7h",
        "TidemillObjectivesMissedSteady",
        [{"model": "m", "severity": "page", "window": "6h"}],
    ),
    (
        "a loose objective can be missed as well",
        _slo("0x120", "0+60x120", target=0.5),
        "70m",
        "TidemillObjectivesMissedFast",
        [{"model": "m", "severity": "page", "window": "1h"}],
    ),
    (
        "one of two replicas never comes",
        [
            _series("tidemill_pool_replicas_requested", "2x60", pool="p", replica="r1"),
            _series("tidemill_replicas", "1x60", pool="p", phase="ready", replica="r1"),
        ],
        "30m",
        "TidemillPoolStuck",
        [{"pool": "p", "severity": "page"}],
    ),
    (
        "none comes",
        [_series("tidemill_pool_replicas_requested", "1x60", pool="p", replica="r1")],
        "30m",
        "TidemillPoolStuck",
        [{"pool": "p", "severity": "page"}],
    ),
    (
        "they came",
        [
            _series("tidemill_pool_replicas_requested", "2x60", pool="p", replica="r1"),
            _series("tidemill_replicas", "1x8 2x52", pool="p", phase="ready", replica="r1"),
            _series("tidemill_replicas", "2x60", pool="p", phase="ready", replica="r2"),
        ],
        "30m",
        "TidemillPoolStuck",
        [],
    ),
    (
        "near matches are wrong more often than allowed",
        [
            _series("tidemill_cache_wrong_ratio", "0.04x60", category="law"),
            _series("tidemill_cache_error_max_ratio", "0.02x60", category="law"),
            _series("tidemill_cache_judgements_total", "30x60", category="law", verdict="right"),
            _series("tidemill_cache_wrong_ratio", "0.04x60", category="math"),
            _series("tidemill_cache_error_max_ratio", "0.02x60", category="math"),
            _series("tidemill_cache_judgements_total", "3x60", category="math", verdict="right"),
        ],
        "20m",
        "TidemillCacheWrong",
        [{"category": "law", "severity": "page"}],
    ),
    (
        "a GPU is lost",
        [
            _series("tidemill_energy_meter_errors", "1x60", meter="nvml", error="gpu_is_lost"),
            _series("tidemill_energy_meter_errors", "1x60", meter="rapl", error="no_permission"),
        ],
        "20m",
        "TidemillEnergyMeterDead",
        [{"meter": "nvml", "error": "gpu_is_lost", "severity": "ticket"}],
    ),
    (
        "energy was measured and is not any more",
        [
            _series("tidemill_pool_power_watts", "300x20 stale", pool="p", source="measured"),
            _series("tidemill_pool_power_watts", "_x20 280x60", pool="p", source="modelled"),
            _series("tidemill_pool_power_watts", "280x80", pool="cpu", source="modelled"),
        ],
        "50m",
        "TidemillEnergyNoLongerMeasured",
        [{"pool": "p", "severity": "ticket"}],
    ),
    (
        "a replica is silent",
        [_series("tidemill_pool_report_age_seconds", "1x10 60x60", pool="p", replica="r1")],
        "20m",
        "TidemillSnapshotStale",
        [{"pool": "p", "severity": "page"}],
    ),
    (
        "one router hears nothing",
        [
            _series("tidemill_fleet_view_age_seconds", "90x60", replica="r1", job="tidemill-router"),
            _series("tidemill_fleet_view_age_seconds", "1x60", replica="r2", job="tidemill-router"),
        ],
        "20m",
        "TidemillDirectoryAway",
        [{"replica": "r1", "job": "tidemill-router", "severity": "page"}],
    ),
    (
        "the provisioner is away",
        [_series("tidemill_plan_age_seconds", "0+60x60", replica="r1")],
        "20m",
        "TidemillProvisionerSilent",
        [{"severity": "page"}],
    ),
    (
        "the provisioner has never decided",
        [_series("up", "1x60", job="tidemill-router", replica="r1")],
        "20m",
        "TidemillProvisionerMissing",
        [{"severity": "page"}],
    ),
    (
        "nobody is there to say what the provisioner does",
        [_series("up", "0x60", job="tidemill-router", replica="r1")],
        "20m",
        "TidemillProvisionerMissing",
        [],
    ),
    (
        "a router is down",
        [
            _series("up", "0x60", job="tidemill-router", replica="r1"),
            _series("up", "1x60", job="tidemill-router", replica="r2"),
        ],
        "20m",
        "TidemillRouterDown",
        [{"job": "tidemill-router", "replica": "r1", "severity": "page"}],
    ),
    (
        "no router is left",
        [_series("up", "1x60", job="ray")],
        "20m",
        "TidemillRouterDown",
        [{"job": "tidemill-router", "severity": "page"}],
    ),
    (
        "all is well",
        [
            _series("up", "1x60", job="tidemill-router", replica="r1"),
            _series("tidemill_plan_age_seconds", "5x60", replica="r1"),
        ],
        "20m",
        "TidemillRouterDown",
        [],
    ),
]


def _rule_of(alert: str) -> dict[str, Any]:
    return next(
        rule for group in alert_rules()["groups"] for rule in group["rules"] if rule.get("alert") == alert
    )


@needs_promtool
@pytest.mark.parametrize(
    ("series", "at", "alert", "firing"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_who_is_woken_when(
    rules: Path, series: list[dict[str, str]], at: str, alert: str, firing: list[dict[str, str]]
) -> None:
    # What the summary says holds a value; labels are what tells alerts apart.
    whole = yaml.safe_load(rules.read_text())
    for group in whole["groups"]:
        for rule in group["rules"]:
            rule.pop("annotations", None)
    rules.write_text(yaml.safe_dump(whole, width=1000))
    tried = {
        "rule_files": [rules.name],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": series,
                "alert_rule_test": [
                    {"eval_time": at, "alertname": alert, "exp_alerts": [{"exp_labels": f} for f in firing]}
                ],
            }
        ],
    }
    (rules.parent / "tried.yaml").write_text(yaml.safe_dump(tried))
    done = _promtool("test", "rules", "tried.yaml", folder=rules.parent)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_summaries_can_be_filled_in(rules: Path) -> None:
    tried = {
        "rule_files": [rules.name],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": _slo("0x120", "0+60x120"),
                "alert_rule_test": [
                    {
                        "eval_time": "70m",
                        "alertname": "TidemillObjectivesMissedFast",
                        "exp_alerts": [
                            {
                                "exp_labels": {"model": "m", "severity": "page", "window": "1h"},
                                "exp_annotations": {
                                    "summary": "m: 100% of the requests of the last 1h missed their "
                                    "objectives or failed",
                                    "runbook": "docs/operations.md#alerts",
                                },
                            }
                        ],
                    }
                ],
            }
        ],
    }
    (rules.parent / "tried.yaml").write_text(yaml.safe_dump(tried))
    done = _promtool("test", "rules", "tried.yaml", folder=rules.parent)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", [*burn_alerts(), *health_alerts()], ids=lambda alert: alert.name)
def test_what_to_do_is_written_down(alert: Any) -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    _, _, section = page.partition("\n## Alerts\n")
    assert f"| `{alert.name}` |" in section.partition("\n## ")[0]


def test_every_alert_is_tried_or_simple() -> None:
    """Those that are only a threshold on one gauge need no trial."""
    untried = {alert.name for alert in [*burn_alerts(), *health_alerts()]} - {case[3] for case in CASES}
    assert untried == {
        "TidemillObjectivesMissedSlow",
        "TidemillPoolUnplaceable",
        "TidemillPlanDegraded",
        "TidemillRequestsRejected",
        "TidemillDecisionsDropped",
        "TidemillCacheAway",
        "TidemillReplicaUnscraped",
    }
    assert all("expr" in _rule_of(name) for name in untried)
