"""What a running cluster leaves on disk for the commands that are typed in another terminal."""

import contextlib
import dataclasses
import fcntl
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from operators.cli.console import CliError
from operators.local_cluster import processes
from operators.local_cluster.cluster import ClusterHandle, write_private

STATE_FILE = "state.json"
ADMIN_KEY_FILE = "admin-key"
LOCK_FILE = "up.lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterState:
    """One cluster as `tidemill up` started it."""

    pid: int
    """Process of `tidemill up`."""
    pid_created_at_s: float
    """Tells that process from a later one with the same id."""
    phase: str
    """`starting`, `ready` or `stopping`."""
    url: str
    """Where the gateway answers, without a path."""
    config_path: str
    ports: dict[str, int] = field(default_factory=dict)
    admin_key_env: str
    """Environment variable that holds the admin key, if the user set one."""
    admin_key_path: str | None
    """File with the generated admin key; None if it came from the environment."""
    cluster: ClusterHandle | None = None

    @property
    def up_is_alive(self) -> bool:
        """Whether `tidemill up` still runs."""
        return processes.is_alive(self.pid, self.pid_created_at_s)

    @property
    def running_pid(self) -> int | None:
        """A living process of this cluster: `tidemill up`, or the Ray head it left behind."""
        if self.up_is_alive:
            return self.pid
        if self.cluster and processes.is_alive(self.cluster.ray_pid, self.cluster.ray_created_at_s):
            return self.cluster.ray_pid
        return None


def state_dir_of(env: Mapping[str, str]) -> Path:
    """Where state is kept: `TIDEMILL_STATE`, else the user's state folder."""
    if env.get("TIDEMILL_STATE"):
        return Path(env["TIDEMILL_STATE"]).expanduser().absolute()
    base = env.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "tidemill"


def load_state(state_dir: Path) -> ClusterState | None:
    """The last cluster's state; None if there is none or it cannot be read."""
    try:
        data = json.loads((state_dir / STATE_FILE).read_text(encoding="utf-8"))
        handle = data.pop("cluster")
        return ClusterState(**data, cluster=ClusterHandle(**handle) if handle else None)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def save_state(state_dir: Path, state: ClusterState) -> None:
    """Replace the state file; a reader sees the old or the new one, never half of one."""
    scratch = state_dir / f".{STATE_FILE}.new"
    write_private(scratch, json.dumps(dataclasses.asdict(state), indent=1))
    scratch.replace(state_dir / STATE_FILE)


def remove_state(state_dir: Path) -> None:
    """Say that nothing runs."""
    (state_dir / STATE_FILE).unlink(missing_ok=True)


@contextlib.contextmanager
def only_one(state_dir: Path) -> Iterator[None]:
    """Keep a second `tidemill up` with the same state folder from starting.

    Raises:
        CliError: there is one, or the folder cannot be used.
    """
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        stream = (state_dir / LOCK_FILE).open("w")
    except OSError as error:
        raise CliError(
            f"{state_dir} cannot be used: {error}; set TIDEMILL_STATE to another folder"
        ) from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            state = load_state(state_dir)
            shown = f" (process {state.pid})" if state else ""
            raise CliError(f"already running{shown}; `tidemill down` stops it") from None
        yield


def provide_admin_key(state_dir: Path, variable: str, env: Mapping[str, str]) -> tuple[str, Path | None]:
    """The key for `/admin/*`: the user's own, or a generated one that is kept for this user alone.

    Returns:
        The key, and the file it is kept in (None if it came from the environment).

    Raises:
        CliError: the user's own cannot be a key.
    """
    if given := env.get(variable, "").strip():
        return sound_key(given, variable), None
    path = state_dir / ADMIN_KEY_FILE
    key = secrets.token_urlsafe(32)
    write_private(path, key)
    return key, path


def sound_key(text: str, origin: str) -> str:
    """A key as it can be shown in a header, without the end of the line that files and secrets put behind it.

    Raises:
        CliError: no header can carry it.
    """
    key = text.strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        # What it says is not repeated: it may be a key after all, with something beside it.
        raise CliError(f"what {origin} holds is no key: a key is one word of letters, digits and ASCII signs")
    return key


def read_admin_key(state: ClusterState, env: Mapping[str, str]) -> str:
    """The running cluster's admin key.

    Raises:
        CliError: it is not to be had.
    """
    if state.admin_key_path is not None:
        try:
            return sound_key(Path(state.admin_key_path).read_text("utf-8"), state.admin_key_path)
        except (OSError, UnicodeDecodeError) as error:
            raise CliError(f"the admin key cannot be read: {error}") from error
    key = env.get(state.admin_key_env)
    if not key:
        raise CliError(f"set {state.admin_key_env} to the key that `tidemill up` was given")
    return sound_key(key, state.admin_key_env)


def own_state(**fields: object) -> ClusterState:
    """The state of the calling process's cluster, with the given fields."""
    pid = os.getpid()
    return ClusterState(pid=pid, pid_created_at_s=processes.created_at_s(pid), **fields)  # type: ignore[arg-type]
