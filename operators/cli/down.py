"""`tidemill down`: stops the cluster from another terminal, also one whose `tidemill up` is gone."""

import contextlib
import os
import shutil
import signal
from pathlib import Path

import psutil

from deployments.engine.weights import default_cache_dir
from operators.cli.console import CliError, Reporter, reporter_for
from operators.cli.state import (
    ADMIN_KEY_FILE,
    LOCK_FILE,
    ClusterState,
    load_state,
    remove_state,
    state_dir_of,
)
from operators.local_cluster import processes
from operators.local_cluster.cluster import kill_cluster, runtime_dir_of

_PATIENCE_S = 90.0
"""An orderly stop takes at most 30 s for Serve and 15 s for Ray, then kills."""
_LEFT_BEHIND = (ADMIN_KEY_FILE, LOCK_FILE, "ray-head.log", "ray-token", "deploy.log", "up.log")
_FOLDERS_LEFT_BEHIND = (
    "decisions",
    "requests",
    "semantic-cache",
    "prometheus",
    "provisioning",
    "model-routing",
    "tenants",
    "adapters",
    "adapter-coordinator",
    "job-code",
)
_CACHED = ("weights", "adapter-recipes", "adapters", "adapter-pagers")


def down(*, json_output: bool, purge: bool) -> None:
    """Stop the cluster of this state folder; nothing running is fine.

    Args:
        json_output: events instead of lines.
        purge: also remove logs, state and converted weights.

    Raises:
        CliError: something could not be stopped.
    """
    reporter = reporter_for(json_events=json_output)
    state_dir = state_dir_of(os.environ)
    state = load_state(state_dir)
    if state is None or state.running_pid is None:
        if state is not None and state.cluster is not None:
            kill_cluster(state.cluster)  # workers may outlive their head
        reporter.event("nothing", "nothing runs")
    else:
        with reporter.step(f"stopping the cluster of process {state.pid}"):
            _ask_up(state, reporter)
            _kill_rest(state)
        reporter.event("stopped", "stopped")
    remove_state(state_dir)
    if purge:
        _purge(state_dir)


def _ask_up(state: ClusterState, reporter: Reporter) -> None:
    """Let `tidemill up` stop in order, and end it if it can't."""
    if not state.up_is_alive:
        reporter.note("its `tidemill up` is gone; killing what it left")
        return
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(state.pid)
        process.send_signal(signal.SIGTERM)
        if processes.wait_gone([process], _PATIENCE_S):
            reporter.note(f"not stopped after {_PATIENCE_S:.0f} s; killing it")
            process.kill()


def _kill_rest(state: ClusterState) -> None:
    if state.cluster is None:
        return
    left = kill_cluster(state.cluster)
    if left:
        raise CliError(f"processes {left} could not be killed")


def _purge(state_dir: Path) -> None:
    """Remove what we wrote, by name: the folders may be the user's own."""
    for name in _LEFT_BEHIND:
        (state_dir / name).unlink(missing_ok=True)
    for folder in (
        *(state_dir / name for name in _FOLDERS_LEFT_BEHIND),
        *(default_cache_dir(os.environ) / name for name in _CACHED),
        runtime_dir_of(state_dir),
    ):
        shutil.rmtree(folder, ignore_errors=True)
    for folder in (state_dir, default_cache_dir(os.environ)):
        with contextlib.suppress(OSError):
            folder.rmdir()  # only if nothing of somebody else's is in it
