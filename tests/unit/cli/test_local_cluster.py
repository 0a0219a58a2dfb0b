"""How the Ray head is called, in which environment, and where its files lie."""

import os
import stat
from pathlib import Path

import pytest

from cluster.config.local_cluster import LocalClusterConfig
from operators.local_cluster.cluster import (
    LocalClusterError,
    head_command,
    planned_cpus,
    prepare_runtime_dir,
    runtime_dir_of,
    write_private,
)
from operators.local_cluster.environment import (
    HAPROXY_FOLDER,
    FreePorts,
    cluster_environment,
    gateway_environment,
)
from operators.local_cluster.failures import last_errors

NODE_ID_LETTERS = 56
HAPROXY_SOCKET_PATH_MAX = 97


def _environment(inherited: dict[str, str], *, haproxy: bool = True) -> dict[str, str]:
    return cluster_environment(
        LocalClusterConfig(haproxy=haproxy, haproxy_stats_port=1234),
        inherited=inherited,
        cluster_id="mark",
        runtime_dir=Path("/tmp/x"),
        token_path=Path("/state/ray-token"),
        source_root=Path("/src"),
        ports=FreePorts(fallback_http=1, fallback_grpc=2, dashboard_agent=3),
    )


def test_nothing_of_another_cluster_is_inherited() -> None:
    env = _environment(
        {"RAY_ADDRESS": "other:1", "RAY_AUTH_TOKEN": "t", "RAY_AUTH_MODE": "disabled", "A": "b"}
    )
    assert "RAY_ADDRESS" not in env
    assert "RAY_AUTH_TOKEN" not in env
    assert env["RAY_AUTH_MODE"] == "token"
    assert env["RAY_AUTH_TOKEN_PATH"] == "/state/ray-token"
    assert env["A"] == "b"


def test_every_file_of_haproxy_lies_in_our_folder() -> None:
    env = _environment({})
    places = {name: value for name, value in env.items() if "HAPROXY" in name and "/" in value}
    assert len(places) == 5
    assert all(value.startswith("/tmp/x/") for value in places.values())
    assert env["RAY_SERVE_HAPROXY_STATS_PORT"] == "1234"


def test_users_own_tuning_wins_over_defaults_but_not_over_what_keeps_clusters_apart() -> None:
    env = _environment({"RAY_SERVE_THROUGHPUT_OPTIMIZED": "0", "RAY_SERVE_HAPROXY_STATS_PORT": "9"})
    assert env["RAY_SERVE_THROUGHPUT_OPTIMIZED"] == "0"
    assert env["RAY_SERVE_HAPROXY_STATS_PORT"] == "1234"


def test_haproxy_can_be_off() -> None:
    assert _environment({}, haproxy=False)["RAY_SERVE_ENABLE_HA_PROXY"] == "0"


def test_haproxy_outlasts_the_longest_request() -> None:
    env = gateway_environment(600)
    patience = {name: value for name, value in env.items() if "HAPROXY" in name and name.endswith("_S")}
    assert len(patience) == 3
    assert all(int(value) > 600 for value in patience.values())


def test_head_listens_here_only_and_plans_a_core_for_the_services() -> None:
    command = head_command(
        LocalClusterConfig(gcs_port=7000), runtime_dir=Path("/tmp/x"), agent_port=1, cores=2
    )
    assert "--port=7000" in command
    assert "--dashboard-host=127.0.0.1" in command
    assert "--num-cpus=3" in command
    assert planned_cpus(LocalClusterConfig(cpus=8), cores=2) == 8


def test_socket_paths_fit_however_long_the_folders_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    long = tmp_path / ("d" * 80)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    socket_path = runtime_dir_of(long / "state") / HAPROXY_FOLDER / ("n" * NODE_ID_LETTERS) / "metrics.sock"
    assert len(os.fsencode(socket_path)) <= HAPROXY_SOCKET_PATH_MAX
    assert runtime_dir_of(long / "state") != runtime_dir_of(long / "other")


def test_runtime_folder_is_emptied_and_private(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "ray" / "old").mkdir(parents=True)
    (folder / "file").write_text("x")
    prepare_runtime_dir(folder)
    assert [entry.name for entry in folder.iterdir()] == [HAPROXY_FOLDER]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_link_in_place_of_the_runtime_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "target")
    with pytest.raises(LocalClusterError, match="not this user's folder"):
        prepare_runtime_dir(tmp_path / "run")


def test_secrets_are_readable_for_the_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("old")
    path.chmod(0o644)
    write_private(path, "new")
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_last_errors_are_what_the_engine_wrote_and_what_ended_the_replica(tmp_path: Path) -> None:
    logs = tmp_path / "ray" / "session_latest" / "logs"
    (logs / "serve").mkdir(parents=True)
    (logs / "serve" / "controller_7.log").write_text(
        "INFO 1 controller -- Starting Replica\n"
        "ray.exceptions.RayTaskError(RuntimeError): \x1b[36mray::ServeReplica\x1b[39m: x\n"
        "RuntimeError: Traceback (most recent call last):\n"
        '    raise EngineFailedError(f"vLLM did not start: {error}") from error\n'
        "deployments.engine.interface.EngineFailedError: vLLM did not start: no memory\n"
        "deployments.engine.interface.EngineFailedError: vLLM did not start: no memory\n"
    )
    (logs / "worker-1.err").write_text("fine\n\x1b[31mERROR\x1b[0m bind failed\n")
    quiet = logs / "worker-2.err"
    quiet.write_text("all is well\n")
    os.utime(quiet, (2**31, 2**31))
    assert last_errors(tmp_path) == [
        "ERROR bind failed",
        "deployments.engine.interface.EngineFailedError: vLLM did not start: no memory",
    ]
    assert last_errors(tmp_path / "nowhere") == []
