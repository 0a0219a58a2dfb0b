"""What is done to the cluster: each fault is one function that does it and one that says when it is over."""

import random
import resource
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from load_tests.chaos.cluster import ChaosCluster

_GARBAGE_BYTES = 4096
_NO_LIMIT = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)

ROUTER, CACHE = "ServeReplica:gateway:", "ServeReplica:semantic-cache:"
PREFILL, DECODE = "ServeReplica:pool-prefill:", "ServeReplica:pool-decode:"
DIRECTORY, LEARNER, PROVISIONER = "ray::FleetDirectory", "ray::ModelLearner", "ray::Provisioner"
METER, CONTROLLER, GCS = "ray::TelemetryAgent", "ray::ServeController", "gcs_server"

Recovered = Callable[[], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One case of the suite."""

    name: str
    hurt: Callable[[ChaosCluster], Recovered]
    """Does it; returns what tells that the cluster is whole again."""
    heal: Callable[[ChaosCluster], None] | None = None
    """Takes back what would last."""
    ends_cluster: bool = False
    """Whether a new cluster is needed after it."""


class NoVictimError(RuntimeError):
    """What was to be hurt does not run in this cluster."""


def _victims(cluster: ChaosCluster, word: str) -> list[psutil.Process]:
    found = cluster.matching(word)
    if not found:
        raise NoVictimError(f"no process {word} runs")
    return found


def _killed(
    word: str, *, signal_number: int = signal.SIGKILL, every: bool = False
) -> Callable[..., Recovered]:
    def hurt(cluster: ChaosCluster) -> Recovered:
        before = _victims(cluster, word)
        hit = before if every else before[:1]
        for process in hit:
            process.send_signal(signal_number)
        gone = {process.pid for process in hit}
        wanted = _least(cluster, word, len(before))

        def recovered() -> bool:
            now = {process.pid for process in cluster.matching(word)}
            return not gone & now and len(now) >= wanted and _fleet_whole(cluster)

        return recovered

    return hurt


def _least(cluster: ChaosCluster, word: str, now: int) -> int:
    """How many processes there must be again: pools may be resized meanwhile, but not below their minimum."""
    pool = word.removeprefix("ServeReplica:pool-").rstrip(":")
    replicas = cluster.config["pools"].get(pool, {}).get("replicas") or {}
    return min(now, int(replicas.get("min", now)))


def _fleet_whole(cluster: ChaosCluster) -> bool:
    """Whether a router knows every pool's replicas."""
    known = [replica["pool"] for replica in cluster.fleet()["replicas"]]
    wanted = {
        name: (pool.get("replicas") or {}).get("min", 1) for name, pool in cluster.config["pools"].items()
    }
    return all(known.count(name) >= count for name, count in wanted.items())


def _limit_files(word: str, limits: tuple[int, int]) -> Callable[[ChaosCluster], None]:
    def change(cluster: ChaosCluster) -> None:
        for process in _victims(cluster, word):
            process.rlimit(psutil.RLIMIT_FSIZE, limits)

    return change


def _disk_full(word: str) -> Callable[..., Recovered]:
    def hurt(cluster: ChaosCluster) -> Recovered:
        # Python ignores SIGXFSZ: writing fails as on a full disk, with another number.
        _limit_files(word, (0, resource.RLIM_INFINITY))(cluster)
        return lambda: True

    return hurt


def _corrupted(folder: str, word: str) -> Callable[..., Recovered]:
    kill = _killed(word, every=True)

    def hurt(cluster: ChaosCluster) -> Recovered:
        files = [path for path in (cluster.state / folder).rglob("*") if path.is_file()]
        if not files:
            raise NoVictimError(f"nothing is stored in {folder}")
        for path in files:
            _spoil(path)
        return kill(cluster)

    return hurt


def _spoil(path: Path) -> None:
    chance = random.Random(path.name)
    with path.open("r+b") as file:
        file.write(chance.randbytes(min(_GARBAGE_BYTES, max(1, path.stat().st_size))))


def _scaled_down(cluster: ChaosCluster) -> Recovered:
    cluster.scale("decode", 3)
    cluster.scale("decode", 2)
    return lambda: len([r for r in cluster.fleet()["replicas"] if r["pool"] == "decode"]) == 2


def _kill_stopped(word: str) -> Callable[[ChaosCluster], None]:
    def heal(cluster: ChaosCluster) -> None:
        for process in cluster.matching(word):
            if process.status() == psutil.STATUS_STOPPED:
                process.send_signal(signal.SIGCONT)

    return heal


def _frozen(name: str, word: str) -> Fault:
    return Fault(name=name, hurt=_killed(word, signal_number=signal.SIGSTOP), heal=_kill_stopped(word))


FAULTS = (
    Fault(name="nothing", hurt=lambda _: lambda: True),
    Fault(name="scale_down", hurt=_scaled_down),
    Fault(name="kill_router", hurt=_killed(ROUTER)),
    Fault(name="kill_cache", hurt=_killed(CACHE)),
    Fault(name="kill_prefill", hurt=_killed(PREFILL)),
    Fault(name="kill_decode", hurt=_killed(DECODE)),
    Fault(name="kill_all_decode", hurt=_killed(DECODE, every=True)),
    Fault(name="kill_directory", hurt=_killed(DIRECTORY)),
    Fault(name="kill_learner", hurt=_killed(LEARNER)),
    Fault(name="kill_provisioner", hurt=_killed(PROVISIONER)),
    Fault(name="kill_energy_meter", hurt=_killed(METER)),
    Fault(name="kill_serve_controller", hurt=_killed(CONTROLLER)),
    Fault(name="kill_ingress", hurt=_killed("haproxy -")),
    _frozen("freeze_decode", DECODE),
    _frozen("freeze_prefill", PREFILL),
    _frozen("freeze_router", ROUTER),
    _frozen("freeze_cache", CACHE),
    _frozen("freeze_directory", DIRECTORY),
    Fault(name="disk_full_router", hurt=_disk_full(ROUTER), heal=_limit_files(ROUTER, _NO_LIMIT)),
    Fault(name="disk_full_cache", hurt=_disk_full(CACHE), heal=_limit_files(CACHE, _NO_LIMIT)),
    Fault(name="disk_full_learner", hurt=_disk_full(LEARNER), heal=_limit_files(LEARNER, _NO_LIMIT)),
    Fault(
        name="disk_full_provisioner", hurt=_disk_full(PROVISIONER), heal=_limit_files(PROVISIONER, _NO_LIMIT)
    ),
    Fault(name="corrupt_learner", hurt=_corrupted("model-routing", LEARNER)),
    Fault(name="corrupt_provisioner", hurt=_corrupted("provisioning", PROVISIONER)),
    Fault(name="corrupt_cache", hurt=_corrupted("semantic-cache", CACHE)),
    Fault(name="corrupt_decision_log", hurt=_corrupted("decisions", ROUTER)),
    Fault(name="kill_gcs", hurt=_killed(GCS), ends_cluster=True),
)
"""In the order in which they are done: what ends the cluster comes last."""
