"""The state file and the admin key that other terminals rely on."""

import stat
from pathlib import Path

import pytest

from operators.cli.console import CliError
from operators.cli.state import (
    ClusterState,
    load_state,
    only_one,
    own_state,
    provide_admin_key,
    read_admin_key,
    remove_state,
    save_state,
    state_dir_of,
)
from operators.local_cluster.cluster import ClusterHandle


def _state(**changes: object) -> ClusterState:
    fields: dict[str, object] = {
        "phase": "ready",
        "url": "http://127.0.0.1:8000",
        "config_path": "/c.yaml",
        "ports": {"gateway.port": 8000},
        "admin_key_env": "KEY",
        "admin_key_path": None,
    }
    return own_state(**{**fields, **changes})


def test_state_survives_the_disk(tmp_path: Path) -> None:
    handle = ClusterHandle(cluster_id="c", runtime_dir="/tmp/x", ray_pid=1, ray_created_at_s=0.5)
    state = _state(cluster=handle)
    save_state(tmp_path, state)
    assert load_state(tmp_path) == state
    assert stat.S_IMODE((tmp_path / "state.json").stat().st_mode) == 0o600
    remove_state(tmp_path)
    assert load_state(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"cluster": 3}'])
def test_damaged_state_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_text(text)
    assert load_state(tmp_path) is None


def test_a_reused_process_id_is_not_our_process() -> None:
    state = _state()
    assert state.running_pid == state.pid
    later = ClusterState(
        pid=state.pid,
        pid_created_at_s=state.pid_created_at_s - 100,
        phase="ready",
        url="",
        config_path="",
        admin_key_env="KEY",
        admin_key_path=None,
    )
    assert later.running_pid is None


def test_a_ray_head_left_behind_counts_as_running() -> None:
    me = _state()
    handle = ClusterHandle(
        cluster_id="c", runtime_dir="/x", ray_pid=me.pid, ray_created_at_s=me.pid_created_at_s
    )
    gone = ClusterState(
        pid=2**22 + 1,
        pid_created_at_s=0,
        phase="ready",
        url="",
        config_path="",
        admin_key_env="KEY",
        admin_key_path=None,
        cluster=handle,
    )
    assert not gone.up_is_alive
    assert gone.running_pid == me.pid


def test_a_second_up_is_refused(tmp_path: Path) -> None:
    save_state(tmp_path, _state())
    with only_one(tmp_path), pytest.raises(CliError, match="already running"), only_one(tmp_path):
        pass
    with only_one(tmp_path):
        pass


def test_an_own_admin_key_is_never_written(tmp_path: Path) -> None:
    assert provide_admin_key(tmp_path, "KEY", {"KEY": "mine"}) == ("mine", None)
    assert list(tmp_path.iterdir()) == []
    assert read_admin_key(_state(), {"KEY": "mine"}) == "mine"
    with pytest.raises(CliError, match="set KEY"):
        read_admin_key(_state(), {})


def test_a_generated_admin_key_is_kept_for_the_user_alone(tmp_path: Path) -> None:
    key, path = provide_admin_key(tmp_path, "KEY", {})
    assert path is not None
    assert len(key) > 20
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_admin_key(_state(admin_key_path=str(path)), {}) == key


def test_state_folder_follows_the_environment() -> None:
    assert state_dir_of({"TIDEMILL_STATE": "/a"}) == Path("/a")
    assert state_dir_of({"XDG_STATE_HOME": "/b"}) == Path("/b/tidemill")
    assert state_dir_of({}) == Path.home() / ".local/state/tidemill"
