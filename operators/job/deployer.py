"""Rolls a configuration out, or takes Tidemill off a Ray cluster: `python -m operators.job.deployer`.

A process and a Ray job of its own, because the job that people submit has the whole working directory as
its runtime environment, and replicas shall only have the code. The order comes as JSON on standard input,
progress goes out as one JSON object per line.
"""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray import serve

from cluster.config import TidemillConfig
from deployments.adapter_messages import COORDINATOR_ACTOR
from deployments.app import GATEWAY_APPLICATION, deploy
from deployments.directory.actor import ACTOR_NAME as DIRECTORY_ACTOR
from deployments.directory.actor import NAMESPACE
from deployments.model_learning.actor import ACTOR_NAME as LEARNER_ACTOR
from operators.cli.deployer import carry_out
from operators.job.code_package import copy_code
from operators.job.records import forget_versions, read_versions, write_versions
from operators.job.rollout import RolloutPlan, Running, plan_rollout
from operators.job.versions import COORDINATOR, DIRECTORY, LEARNER, PROVISIONER, part_versions
from operators.pager.actor import start_coordinator
from operators.provisioner.actor import start_provisioner

Progress = Callable[[str], None]
_EXISTING = ("STARTING", "UPDATING", "RECOVERING", "RUNNING")
_SERVE_SETTINGS = "RAY_SERVE_"
_POLL_S = 0.2
_OPTIONAL_ACTORS = {LEARNER: LEARNER_ACTOR, COORDINATOR: COORDINATOR_ACTOR}
"""Which some configurations have no use for."""


def _work(order: dict[str, Any], progress: Progress) -> dict[str, list[str]]:
    return _down(order, progress) if order["down"] else _roll_out(order, progress)


def _connect(order: dict[str, Any], runtime_env: dict[str, Any]) -> None:
    ray.init(
        address=order["cluster_address"],
        namespace=NAMESPACE,
        log_to_driver=False,
        configure_logging=False,
        runtime_env=runtime_env,
    )


def _roll_out(order: dict[str, Any], progress: Progress) -> dict[str, list[str]]:
    config = TidemillConfig.model_validate(order["config"])
    state_dir, environment = Path(order["state_dir"]), order["environment"]
    code = copy_code(state_dir / "job-code")
    runtime_env = {
        **order["runtime_env"],
        "working_dir": str(state_dir / "job-code"),
        "env_vars": environment,
    }
    _connect(order, runtime_env)
    wanted = part_versions(
        config,
        code=code,
        environment={"runtime_env": json.dumps(order["runtime_env"], sort_keys=True), **environment},
        secrets={"admin_key": order["admin_key"], "state_dir": str(state_dir)},
    )
    noted = read_versions()
    plan = plan_rollout(config, wanted, noted, _running(), _free_by_node())
    kept = [part for part in plan.kept if part in wanted]
    if kept:
        progress(f"unchanged: {', '.join(kept)}")
    # What is being replaced has no version until it is there: a job that fails half-way counts as not done.
    write_versions({part: version for part, version in noted.items() if part not in plan.changed})
    _apply(config, plan, order, progress)
    write_versions(wanted)
    return {"changed": list(plan.changed), "kept": kept, "removed": list(plan.removed)}


def _apply(config: TidemillConfig, plan: RolloutPlan, order: dict[str, Any], progress: Progress) -> None:
    state_dir = Path(order["state_dir"])
    if DIRECTORY in plan.changed:
        # Another version's messages may have another form. Routers serve from their last picture meanwhile.
        _kill(DIRECTORY_ACTOR)
    # Named by Ray after the upload, so that nodes fetch the code from the cluster.
    own = dict(ray.get_runtime_context().runtime_env)
    serve_settings = {k: v for k, v in order["environment"].items() if k.startswith(_SERVE_SETTINGS)}
    rollout = replace(plan.rollout, runtime_env=own, serve_environment=serve_settings)
    deploy(
        config,
        cluster_address=order["cluster_address"],
        state_dir=state_dir,
        weights={name: model.source for name, model in config.models.items()},
        admin_key=order["admin_key"],
        progress=progress,
        rollout=rollout,
    )
    _remove(plan.removed, progress)
    if PROVISIONER in plan.changed or plan.removed:
        progress("starting the fleet provisioner")
        start_provisioner(config, state_dir)
    if COORDINATOR in plan.changed:
        progress("starting the coordinator of adapters")
        start_coordinator(config, state_dir)
    for part, actor in _OPTIONAL_ACTORS.items():
        if part not in (*plan.changed, *plan.kept):
            _kill(actor)


def _running() -> dict[str, Running]:
    found = {}
    for name, application in serve.status().applications.items():
        replicas = sum(
            count
            for deployment in application.deployments.values()
            for state, count in deployment.replica_states.items()
            if state in _EXISTING
        )
        found[name] = Running(healthy=application.status == "RUNNING", replicas=replicas)
    return found


def _free_by_node() -> list[dict[str, float]]:
    from ray._private.state import available_resources_per_node  # noqa: PLC0415 - after ray.init

    return list(available_resources_per_node().values())


def _down(order: dict[str, Any], progress: Progress) -> dict[str, list[str]]:
    """Remove the gateway first, which finishes what it has let in, then all that it needed, then actors."""
    _connect(order, {})
    ours = [part for part in read_versions() if not part.startswith("actor:")]
    present = serve.status().applications
    removed = [name for name in sorted(ours, key=lambda name: name != GATEWAY_APPLICATION) if name in present]
    _remove([name for name in removed if name == GATEWAY_APPLICATION], progress)
    _remove([name for name in removed if name != GATEWAY_APPLICATION], progress)
    for actor in ray.util.list_named_actors(all_namespaces=True):
        if actor["namespace"] == NAMESPACE:
            _kill(actor["name"])
    forget_versions()
    if set(present) <= set(removed):
        progress("shutting Serve down, for nobody else uses it")
        serve.shutdown()
    return {"removed": removed}


def _remove(applications: Sequence[str], progress: Progress) -> None:
    """Delete applications together and wait for all: each drains for seconds at least, and for as long as its
    streams last, which is longer than Serve itself would wait.
    """
    if not applications:
        return
    progress(f"removing {', '.join(applications)}")
    for name in applications:
        serve.delete(name, _blocking=False)
    while not serve.status().applications.keys().isdisjoint(applications):
        time.sleep(_POLL_S)


def _kill(actor: str) -> None:
    with contextlib.suppress(ValueError, ray.exceptions.RayError):
        ray.kill(ray.get_actor(actor, NAMESPACE), no_restart=True)


if __name__ == "__main__":
    sys.exit(carry_out(_work))
