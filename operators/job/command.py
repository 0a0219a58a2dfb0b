"""`python -m operators`, run as a Ray job: rolls a configuration out and asks whether the gateway answers."""

import argparse
import json
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.config import ConfigError, TidemillConfig
from operators.cli.configuration import config_refused, read_config
from operators.cli.console import CliError, Reporter, reporter_for
from operators.cli.deployment import Watch, gateway_base_url, probe, run_deployer
from operators.cli.state import ADMIN_KEY_FILE, sound_key, state_dir_of
from operators.cli.stop_signals import StopRequested, StopSignals
from operators.local_cluster.cluster import write_private
from operators.local_cluster.environment import gateway_environment
from operators.provisioner.pool_check import check_pools

_DEPLOYER = "operators.job.deployer"
_JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Where Ray tells a job's driver its runtime environment."""
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_OF_THE_JOB = ("working_dir", "py_modules", "excludes", "env_vars")
"""Parts of the job's runtime environment that replicas do not get as they are."""


class JobCluster:
    """The cluster that the job runs on, as far as waiting needs it."""

    def __init__(self, environment: Mapping[str, str], address: str | None, state_dir: Path) -> None:
        self.address = address or environment.get("RAY_ADDRESS") or "auto"
        self.environment = {name: value for name, value in environment.items() if name != _JOB_CONFIG}
        self.head_log = state_dir / "deploy.log"

    def is_alive(self) -> bool:
        """A job ends with its cluster."""
        return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status is the job's."""
    options = _options(arguments)
    reporter = reporter_for(json_events=options.json)
    state_dir = state_dir_of(os.environ)
    cluster = JobCluster(os.environ, options.address, state_dir)
    with StopSignals():
        try:
            state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            if options.down:
                return _down(cluster, state_dir, reporter)
            return _up(_loaded(options.config), cluster, state_dir, reporter)
        except StopRequested:
            reporter.note("stopped; what was deployed by then stays, and the next job goes on from there")
            return 130
        except OSError as error:
            reporter.error(f"{state_dir} cannot be used: {error}; set TIDEMILL_STATE to another folder")
            return 1
        except CliError as error:
            reporter.error(str(error), error.details)
            return error.exit_code


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m operators",
        description="Start or change Tidemill on the Ray cluster that this job runs on. Ends with status 0 "
        "once every model has answered a request through the gateway; what was deployed stays.",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("-c", "--config", type=Path, help="configuration file")
    what.add_argument("--down", action="store_true", help="remove everything of Tidemill from the cluster")
    parser.add_argument("--json", action="store_true", help="JSON lines for programs instead of text")
    parser.add_argument("--address", help="the Ray cluster, where not run as a job (default: RAY_ADDRESS)")
    return parser.parse_args(arguments)


def _loaded(path: Path) -> TidemillConfig:
    config = read_config(path)
    try:
        check_pools(config, origin=str(path))
    except ConfigError as error:
        raise config_refused(error) from error
    return config


def _up(config: TidemillConfig, cluster: JobCluster, state_dir: Path, reporter: Reporter) -> int:
    if config.gateway.host in _LOOPBACK:
        reporter.note(
            f"gateway.host is {config.gateway.host}: only this node reaches the gateway; 0.0.0.0 lets others"
        )
    watch = Watch(cluster=cluster, deadline_at_s=time.monotonic() + config.local_cluster.start_timeout_s)
    runtime_env = _own_runtime_env(os.environ)
    order: dict[str, Any] = {
        "down": False,
        "config": config.model_dump(mode="json"),
        "cluster_address": cluster.address,
        "state_dir": str(state_dir),
        "admin_key": admin_key(config, state_dir, os.environ),
        "runtime_env": {name: value for name, value in runtime_env.items() if name not in _OF_THE_JOB},
        "environment": replica_environment(config, os.environ, runtime_env.get("env_vars") or {}),
    }
    with reporter.step("rolling out"):
        done = _deploy(order, watch, state_dir, reporter)
    base_url = gateway_base_url(config)
    for model in config.models:
        with reporter.step(f"waiting for an answer of {model}"):
            key = order["admin_key"] if config.tenants.enabled else None
            probe(model, base_url=base_url, watch=watch, progress=reporter.note, key=key)
    url = f"{base_url}/v1"
    reporter.event("ready", f"tidemill is ready: {url}", url=url, **done)
    return 0


def _down(cluster: JobCluster, state_dir: Path, reporter: Reporter) -> int:
    watch = Watch(cluster=cluster, deadline_at_s=time.monotonic() + _DOWN_TIMEOUT_S)
    order = {"down": True, "cluster_address": cluster.address}
    with reporter.step("removing Tidemill"):
        done = _deploy(order, watch, state_dir, reporter)
    reporter.event("removed", "removed", **done)
    return 0


_DOWN_TIMEOUT_S = 1800.0
"""Every pool may drain for its `drain_timeout_s`."""


def _deploy(order: dict[str, Any], watch: Watch, state_dir: Path, reporter: Reporter) -> dict[str, Any]:
    try:
        done: dict[str, Any] = run_deployer(
            _DEPLOYER, order, watch=watch, state_dir=state_dir, progress=reporter.note
        )
    except CliError as error:
        raise CliError(str(error), details=(f"log on the head: {state_dir / 'deploy.log'}",)) from error
    return done


def _own_runtime_env(env: Mapping[str, str]) -> dict[str, Any]:
    """The runtime environment that the job was submitted with."""
    found = json.loads(env.get(_JOB_CONFIG) or "{}").get("runtime_env") or {}
    return {name: value for name, value in found.items() if not name.startswith("_")}


def replica_environment(
    config: TidemillConfig, env: Mapping[str, str], of_the_job: Mapping[str, str]
) -> dict[str, str]:
    """What controller, proxies and replicas get in their environment.

    Serve reads its settings in every process, so they go to all of them; whoever sets one wins over ours.

    Args:
        config: for HAProxy's time-outs, and the name of the variable that is nobody's business.
        env: of the job.
        of_the_job: what the job was submitted with: models may need a token or a cache.
    """
    settings = {name: value for name, value in env.items() if name.startswith("RAY_SERVE_")}
    found = {
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        **gateway_environment(config.gateway.request_timeout_s),
        **settings,
        **of_the_job,
    }
    found.pop(config.gateway.admin_key_env, None)
    return dict(sorted(found.items()))


def admin_key(config: TidemillConfig, state_dir: Path, env: Mapping[str, str]) -> str:
    """The key for `/admin/*`: from the environment, or one that is made once and kept in the state folder.

    It is kept, because a gateway with another key is another version of it.
    """
    variable = config.gateway.admin_key_env
    if given := env.get(variable, "").strip():
        return sound_key(given, variable)
    path = state_dir / ADMIN_KEY_FILE
    if not path.exists():
        write_private(path, secrets.token_urlsafe(32))
    return path.read_text(encoding="utf-8").strip()
