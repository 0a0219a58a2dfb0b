"""Gives each CPU engine cores of its own.

Two engines whose OpenMP threads spin on the same core starve each other (a request was seen to hang for
300 s). A core is claimed by locking a file; the lock ends with the process, however that ends, so a
restarted replica finds its core free.
"""

import fcntl
import os
import tempfile
from pathlib import Path
from typing import IO


class CoreClaim:
    """Cores of this machine that no other replica on it uses."""

    def __init__(self, count: int, *, directory: Path | None = None) -> None:
        """Claim `count` cores; fewer if there are not so many free, and none if all are taken."""
        self._directory = directory or Path(tempfile.gettempdir()) / f"tidemill-cores-{os.getuid()}"
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._locks: list[IO[str]] = []
        self.cores: tuple[int, ...] = ()
        for core in sorted(os.sched_getaffinity(0)):
            if len(self.cores) == count:
                break
            if self._lock(core):
                self.cores = (*self.cores, core)

    def _lock(self, core: int) -> bool:
        handle = (self._directory / str(core)).open("w")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            handle.close()
            return False
        self._locks.append(handle)
        return True

    def release(self) -> None:
        """Give the cores back."""
        for handle in self._locks:
            handle.close()
        self._locks.clear()
        self.cores = ()
