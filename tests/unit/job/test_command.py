"""What a job takes from its environment, and what replicas get of it."""

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.config import parse_config
from operators.job.code_package import copy_code
from operators.job.command import JobCluster, _options, _own_runtime_env, admin_key, replica_environment

ROOT = Path(__file__).parents[3]
CONFIG = parse_config(
    "models: {sim: {source: simulated}}\npools: {decode: {model: sim, engine: {kind: simulated}}}\n"
    "gateway: {request_timeout_s: 100}"
)


def test_serve_s_settings_and_the_job_s_variables_reach_replicas() -> None:
    env = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": "7", "PATH": "/bin"}
    found = replica_environment(CONFIG, env, {"HF_TOKEN": "t", "TIDEMILL_ADMIN_KEY": "secret"})
    assert found["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
    assert found["RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S"] == "7", "whoever sets one wins"
    assert found["RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S"] == "160", "longer than any request"
    assert found["RAY_SERVE_THROUGHPUT_OPTIMIZED"] == "1"
    assert found["HF_TOKEN"] == "t"
    assert not {"PATH", "TIDEMILL_ADMIN_KEY"} & set(found)


def test_the_job_s_own_runtime_environment_is_read() -> None:
    told = {"runtime_env": {"env_vars": {"A": "b"}, "pip": ["x"], "_ray_commit": "c"}, "metadata": {}}
    env = {"RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps(told)}
    assert _own_runtime_env(env) == {"env_vars": {"A": "b"}, "pip": ["x"]}
    assert _own_runtime_env({}) == {}
    assert "RAY_JOB_CONFIG_JSON_ENV_VAR" not in JobCluster(env, None, Path("/state")).environment


@pytest.mark.parametrize(
    ("address", "env", "used"),
    [(None, {}, "auto"), (None, {"RAY_ADDRESS": "h:1"}, "h:1"), ("g:2", {"RAY_ADDRESS": "h:1"}, "g:2")],
)
def test_which_cluster_it_is(address: str | None, env: dict[str, str], used: str) -> None:
    assert JobCluster(env, address, Path("/state")).address == used


def test_a_made_key_is_kept_and_a_given_one_wins(tmp_path: Path) -> None:
    made = admin_key(CONFIG, tmp_path, {})
    assert len(made) > 30
    assert admin_key(CONFIG, tmp_path, {}) == made
    assert stat.S_IMODE((tmp_path / "admin-key").stat().st_mode) == 0o600
    assert admin_key(CONFIG, tmp_path, {"TIDEMILL_ADMIN_KEY": "given"}) == "given"


@pytest.mark.parametrize("arguments", [[], ["-c", "x.yaml", "--down"], ["--unknown"]])
def test_wrong_use_is_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        _options(arguments)
    assert ended.value.code == 2


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    for package in ("cluster", "deployments", "operators", "configs"):
        (root / package / "__pycache__").mkdir(parents=True)
        (root / package / "__init__.py").write_text("")
        (root / package / "__pycache__" / "x.pyc").write_text("x")
    return root


def test_only_code_is_in_the_package_and_its_hash(checkout: Path, tmp_path: Path) -> None:
    first = copy_code(tmp_path / "code", checkout)
    assert sorted(path.name for path in (tmp_path / "code").iterdir()) == [
        "cluster",
        "deployments",
        "operators",
    ]
    assert not list((tmp_path / "code").rglob("*.pyc"))
    (checkout / "configs" / "other.yaml").write_text("x")
    assert copy_code(tmp_path / "code", checkout) == first
    (checkout / "cluster" / "new.py").write_text("x = 1")
    second = copy_code(tmp_path / "code", checkout)
    assert second != first
    (checkout / "cluster" / "new.py").unlink()
    assert copy_code(tmp_path / "code", checkout) == first, "what was removed is gone from the package"


def test_a_python_without_the_packages_is_named() -> None:
    bare = [sys.executable, "-S", "-m", "operators", "--down"]
    done = subprocess.run(bare, cwd=ROOT, capture_output=True, text=True, check=False, env={"PATH": "/bin"})
    assert done.returncode == 1
    assert done.stderr.startswith(f"tidemill: {sys.executable} lacks the package ")
    assert "Traceback" not in done.stderr
