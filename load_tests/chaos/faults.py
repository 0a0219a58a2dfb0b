"""What is done to processes and files: one function does it and returns what tells when it is over."""

import random
import resource
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from load_tests.chaos.cluster import ChaosCluster

_GARBAGE_BYTES = 4096
NO_LIMIT = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)

ROUTER, CACHE = "ServeReplica:gateway:", "ServeReplica:semantic-cache:"
PREFILL, DECODE = "ServeReplica:pool-prefill:", "ServeReplica:pool-decode:"
DIRECTORY, LEARNER, PROVISIONER = "ray::FleetDirectory", "ray::ModelLearner", "ray::Provisioner"
METER, CONTROLLER, GCS = "ray::TelemetryAgent", "ray::ServeController", "gcs_server"
COORDINATOR = "ray::AdapterCoordinator"

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
    recovers: bool = True
    """Whether the cluster comes back from it by itself."""
    kind: str = "plain"
    """The cluster that it needs, of `kinds.KINDS`."""


class NoVictimError(RuntimeError):
    """What was to be hurt does not run in this cluster."""


def victims(cluster: ChaosCluster, word: str) -> list[psutil.Process]:
    """Processes whose command line holds a word; there must be one."""
    found = cluster.matching(word)
    if not found:
        raise NoVictimError(f"no process {word} runs")
    return found


def killed(
    word: str, *, signal_number: int = signal.SIGKILL, every: bool = False
) -> Callable[..., Recovered]:
    """A signal for the first process of a kind, or for every one."""

    def hurt(cluster: ChaosCluster) -> Recovered:
        before = victims(cluster, word)
        hit = before if every else before[:1]
        for process in hit:
            process.send_signal(signal_number)
        gone = {process.pid for process in hit}
        wanted = _least(cluster, word, len(before))

        def recovered() -> bool:
            now = {process.pid for process in cluster.matching(word)}
            return not gone & now and len(now) >= wanted and fleet_whole(cluster)

        return recovered

    return hurt


def _least(cluster: ChaosCluster, word: str, now: int) -> int:
    """How many processes there must be again: pools may be resized meanwhile, but not below their minimum."""
    pool = word.removeprefix("ServeReplica:pool-").rstrip(":")
    replicas = cluster.config["pools"].get(pool, {}).get("replicas") or {}
    return min(now, int(replicas.get("min", now)))


def fleet_whole(cluster: ChaosCluster) -> bool:
    """Whether a router knows every pool's replicas."""
    known = [replica["pool"] for replica in cluster.fleet()["replicas"]]
    wanted = {
        name: (pool.get("replicas") or {}).get("min", 1) for name, pool in cluster.config["pools"].items()
    }
    return all(known.count(name) >= count for name, count in wanted.items())


def limit_files(word: str, limits: tuple[int, int]) -> Callable[[ChaosCluster], None]:
    """How long files may be that processes of a kind write."""

    def change(cluster: ChaosCluster) -> None:
        for process in victims(cluster, word):
            process.rlimit(psutil.RLIMIT_FSIZE, limits)

    return change


def disk_full(word: str) -> Callable[..., Recovered]:
    """Nothing that processes of a kind write is taken."""

    def hurt(cluster: ChaosCluster) -> Recovered:
        # Python ignores SIGXFSZ: writing fails as on a full disk, with another number.
        limit_files(word, (0, resource.RLIM_INFINITY))(cluster)
        return lambda: True

    return hurt


def corrupted(folder: str, word: str) -> Callable[..., Recovered]:
    """All files of a folder begin with garbage, and who reads them is killed so that it does."""
    kill = killed(word, every=True)

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


def scaled_down(cluster: ChaosCluster) -> Recovered:
    """One decode replica more, and one less at once."""
    cluster.scale("decode", 3)
    cluster.scale("decode", 2)
    return lambda: len([r for r in cluster.fleet()["replicas"] if r["pool"] == "decode"]) == 2


def _kill_stopped(word: str) -> Callable[[ChaosCluster], None]:
    def heal(cluster: ChaosCluster) -> None:
        for process in cluster.matching(word):
            if process.status() == psutil.STATUS_STOPPED:
                process.send_signal(signal.SIGCONT)

    return heal


def frozen(name: str, word: str, *, kind: str = "plain") -> Fault:
    """A process stands still, with its connections open."""
    hurt = killed(word, signal_number=signal.SIGSTOP)
    return Fault(name=name, hurt=hurt, heal=_kill_stopped(word), kind=kind)
