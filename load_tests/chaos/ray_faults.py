"""What is done to Ray itself: a node with all its processes, a node that is drained, the control store."""

import subprocess
import sys
import threading

import psutil

from load_tests.chaos.cluster import ChaosCluster
from load_tests.chaos.faults import DECODE, GCS, NoVictimError, Recovered, fleet_whole, killed, victims

_RAYLET = "raylet/raylet"
_NODE_ID = "--node_id="
_DRAIN_S = 60
_GCS_AWAY_S = 10.0
_COMMAND_TIMEOUT_S = 60.0


def _node_with_decode(cluster: ChaosCluster) -> psutil.Process:
    """The raylet of a node beside the head that carries a decode replica."""
    replicas = {process.pid for process in victims(cluster, DECODE)}
    for raylet in victims(cluster, _RAYLET):
        if "--head" not in raylet.cmdline():
            below = {child.pid for child in raylet.children(recursive=True)}
            if below & replicas:
                return raylet
    raise NoVictimError("no decode replica runs beside the head")


def node_killed(cluster: ChaosCluster) -> Recovered:
    """All processes of a node at once, as when its power fails."""
    raylet = _node_with_decode(cluster)
    raylet.suspend()  # it starts nothing any more
    gone = [raylet, *raylet.children(recursive=True)]
    for process in gone:
        process.kill()
    return _without(cluster, raylet)


def node_drained(cluster: ChaosCluster) -> Recovered:
    """What Kubernetes' autoscaler, and a Ray node that gets SIGTERM, ask Ray for."""
    raylet = _node_with_decode(cluster)
    node_id = next(word for word in raylet.cmdline() if word.startswith(_NODE_ID)).removeprefix(_NODE_ID)
    settings = {
        "--address": f"127.0.0.1:{cluster.config['local_cluster']['gcs_port']}",
        "--node-id": node_id,
        "--reason": "DRAIN_NODE_REASON_PREEMPTION",
        "--reason-message": "chaos",
        "--deadline-remaining-seconds": str(_DRAIN_S),
    }
    tokens = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(cluster.state / "ray-token")}
    subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "ray.scripts.scripts", "drain-node", *_words(settings)],
        env={**cluster.environment, **tokens},
        stdout=sys.stderr,
        check=True,
        timeout=_COMMAND_TIMEOUT_S,
    )
    return _without(cluster, raylet)


def _words(settings: dict[str, str]) -> list[str]:
    return [word for setting in settings.items() for word in setting]


def _without(cluster: ChaosCluster, raylet: psutil.Process) -> Recovered:
    """Whether the fleet is whole on other nodes."""
    wanted = int(cluster.config["pools"]["decode"]["replicas"]["min"])
    return lambda: not _lives(raylet) and len(cluster.matching(DECODE)) >= wanted and fleet_whole(cluster)


def _lives(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def control_store_killed_and_restarted(cluster: ChaosCluster) -> Recovered:
    """`kill -9` of GCS, which somebody starts again after a while with the tables that Redis has.

    On Kubernetes that is the operator's business. Here it is done by hand, and the process that would end
    the whole head because a part of it has died is stopped meanwhile. Whole again: a decode replica that is
    killed after its return has been replaced.
    """
    (store,) = victims(cluster, GCS)
    command, environment = store.cmdline(), store.environ()
    for watching in victims(cluster, "ray.scripts.scripts start"):
        watching.suspend()
    store.kill()
    threading.Timer(_GCS_AWAY_S, _start, (command, environment)).start()
    replaced: Recovered | None = None

    def recovered() -> bool:
        nonlocal replaced
        if replaced is None and any(found.pid != store.pid for found in cluster.matching(GCS)):
            replaced = killed(DECODE)(cluster)
        return replaced is not None and replaced()

    return recovered


def _start(command: list[str], environment: dict[str, str]) -> None:
    subprocess.Popen(  # noqa: S603 - what ran before
        command,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
