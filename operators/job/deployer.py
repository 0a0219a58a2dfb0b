"""Rolls a configuration out, or takes Tidemill off a Ray cluster: `python -m operators.job.deployer`.

A process and a Ray job of its own, because the job that people submit has the whole working directory as
its runtime environment, and replicas shall only have the code. The order comes as JSON on standard input,
progress goes out as one JSON object per line.
"""

import contextlib
import json
import os
import sys
import traceback
from collections.abc import Callable
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
from operators.job.code_package import copy_code
from operators.job.records import forget_versions, read_versions, write_versions
from operators.job.rollout import RolloutPlan, Running, plan_rollout
from operators.job.versions import COORDINATOR, DIRECTORY, LEARNER, PROVISIONER, part_versions
from operators.pager.actor import start_coordinator
from operators.provisioner.actor import start_provisioner

Progress = Callable[[str], None]
_EXISTING = ("STARTING", "UPDATING", "RECOVERING", "RUNNING")
_SERVE_SETTINGS = "RAY_SERVE_"
_OPTIONAL_ACTORS = {LEARNER: LEARNER_ACTOR, COORDINATOR: COORDINATOR_ACTOR}
"""Which some configurations have no use for."""


def main() -> int:
    """Carry out the order on standard input."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what Ray prints goes to the log, not between the events
    order = json.load(sys.stdin)

    def tell(**event: Any) -> None:
        print(json.dumps(event), file=events, flush=True)

    try:
        done = _down(order, lambda text: tell(progress=text)) if order["down"] else _roll_out(order, tell)
    except Exception as error:  # noqa: BLE001 - every failure becomes one line for the person who waits
        traceback.print_exc()
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        tell(error=lines[0] if lines else type(error).__name__)
        return 1
    tell(done=done)
    return 0


def _connect(order: dict[str, Any], runtime_env: dict[str, Any]) -> None:
    ray.init(
        address=order["cluster_address"],
        namespace=NAMESPACE,
        log_to_driver=False,
        configure_logging=False,
        runtime_env=runtime_env,
    )


def _roll_out(order: dict[str, Any], tell: Callable[..., None]) -> dict[str, list[str]]:
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
        tell(progress=f"unchanged: {', '.join(kept)}")
    # What is being replaced has no version until it is there: a job that fails half-way counts as not done.
    write_versions({part: version for part, version in noted.items() if part not in plan.changed})
    _apply(config, plan, order, tell)
    write_versions(wanted)
    return {"changed": list(plan.changed), "kept": kept, "removed": list(plan.removed)}


def _apply(
    config: TidemillConfig, plan: RolloutPlan, order: dict[str, Any], tell: Callable[..., None]
) -> None:
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
        progress=lambda text: tell(progress=text),
        rollout=rollout,
    )
    for application in plan.removed:
        tell(progress=f"removing {application}")
        serve.delete(application)
    if PROVISIONER in plan.changed or plan.removed:
        tell(progress="starting the fleet provisioner")
        start_provisioner(config, state_dir)
    if COORDINATOR in plan.changed:
        tell(progress="starting the coordinator of adapters")
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
    """Remove the gateway first, so that nobody is let in any more, then pools, then actors."""
    _connect(order, {})
    ours = [part for part in read_versions() if not part.startswith("actor:")]
    present = serve.status().applications
    removed = [name for name in sorted(ours, key=lambda name: name != GATEWAY_APPLICATION) if name in present]
    for name in removed:
        progress(f"removing {name}")
        serve.delete(name)
    for actor in ray.util.list_named_actors(all_namespaces=True):
        if actor["namespace"] == NAMESPACE:
            _kill(actor["name"])
    forget_versions()
    if set(present) <= set(removed):
        progress("shutting Serve down, for nobody else uses it")
        serve.shutdown()
    return {"removed": removed}


def _kill(actor: str) -> None:
    with contextlib.suppress(ValueError, ray.exceptions.RayError):
        ray.kill(ray.get_actor(actor, NAMESPACE), no_restart=True)


if __name__ == "__main__":
    sys.exit(main())
