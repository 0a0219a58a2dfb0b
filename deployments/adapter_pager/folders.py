"""Adapters on a node's disk, a folder for each hash: fetched once, checked before use, the oldest removed.

Replicas on one machine share the folders. Whoever uses one holds a lock on it, which ends with its process,
however that ends; only folders that nobody holds are removed.
"""

import asyncio
import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from cluster.entities.adapters import AdapterCard
from deployments.adapter_pager.files import WEIGHTS_FILE, AdapterFacts, AdapterFilesError, read_adapter

_NAME_CHARS = 16
_SCRATCH = ".fetch-"
_SCRATCH_KEPT_S = 3600.0

Fetch = Callable[[str, Path], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedAdapter:
    """An adapter whose files were read and checked just now."""

    path: Path
    facts: AdapterFacts
    fetched: bool
    """Whether it came from its source, or was on the disk."""


class AdapterFolders:
    """The disk tier."""

    def __init__(self, root: Path, *, fetch: Fetch, bytes_max: int) -> None:
        """Touch nothing yet.

        Args:
            root: where the folders are.
            fetch: puts the files of a source into a folder.
            bytes_max: of all folders together, as far as nobody uses them.
        """
        self._root = root
        self._fetch = fetch
        self._bytes_max = bytes_max
        self._held: dict[str, IO[bytes]] = {}

    def path_of(self, sha256: str) -> Path:
        """Where an adapter of this hash is kept."""
        return self._root / sha256[:_NAME_CHARS]

    def has(self, sha256: str) -> bool:
        """Whether it is there, checked or not."""
        return (self.path_of(sha256) / WEIGHTS_FILE).is_file()

    async def stage(self, card: AdapterCard) -> StagedAdapter:
        """Have an adapter's files on the disk, in the page cache and checked; they are held from now on.

        Raises:
            AdapterFilesError: they are damaged at the source, too, or not the expected ones.
            AdapterSourceError: the source does not give them.
        """
        if card.sha256:
            facts = await asyncio.to_thread(self._check, card.sha256)
            if facts is not None:
                return StagedAdapter(path=self.path_of(card.sha256), facts=facts, fetched=False)
        self._root.mkdir(parents=True, exist_ok=True)
        scratch = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix=_SCRATCH, dir=self._root))
        try:
            await self._fetch(card.source, scratch)
            facts = await asyncio.to_thread(read_adapter, scratch)
            if card.sha256 and facts.sha256 != card.sha256:
                raise AdapterFilesError(
                    f"{card.source}: the files' hash is {facts.sha256}, expected was {card.sha256}"
                )
            await asyncio.to_thread(self._keep, scratch, facts)
        except AdapterFilesError as error:
            raise AdapterFilesError(f"{card.source}: {error}") from error
        finally:
            await asyncio.to_thread(shutil.rmtree, scratch, ignore_errors=True)
        return StagedAdapter(path=self.path_of(facts.sha256), facts=facts, fetched=True)

    def let_go(self, sha256: str) -> None:
        """This replica does not need the folder any more."""
        handle = self._held.pop(sha256, None)
        if handle is not None:
            handle.close()

    def _check(self, sha256: str) -> AdapterFacts | None:
        """What a kept folder says; None if it is not there or damaged, then it is gone."""
        path = self.path_of(sha256)
        if not path.is_dir():
            return None
        self._hold(sha256)
        with contextlib.suppress(AdapterFilesError):
            facts = read_adapter(path)
            if facts.sha256 == sha256:
                with contextlib.suppress(OSError):
                    os.utime(path)
                return facts
        self.let_go(sha256)
        shutil.rmtree(path, ignore_errors=True)
        return None

    def _keep(self, scratch: Path, facts: AdapterFacts) -> None:
        self._hold(facts.sha256)
        target = self.path_of(facts.sha256)
        with contextlib.suppress(OSError):  # another replica was faster; its files are the same
            scratch.chmod(0o755)
            scratch.rename(target)
        if not target.is_dir():
            raise AdapterFilesError(f"cannot be kept in {target}")
        self._make_room()

    def _hold(self, sha256: str) -> None:
        if sha256 not in self._held:
            handle = self._lock_file(self.path_of(sha256)).open("wb")
            fcntl.flock(handle, fcntl.LOCK_SH)
            self._held[sha256] = handle

    @staticmethod
    def _lock_file(path: Path) -> Path:
        return path.with_name(f"{path.name}.lock")

    def _make_room(self) -> None:
        """Remove the longest unused folders that nobody holds until the rest fits."""
        for scratch in self._root.glob(f"{_SCRATCH}*"):
            with contextlib.suppress(OSError):
                if time.time() - scratch.stat().st_mtime > _SCRATCH_KEPT_S:
                    shutil.rmtree(scratch, ignore_errors=True)  # of a process that was killed
        folders = sorted(
            (path for path in self._root.iterdir() if path.is_dir() and not path.name.startswith(".")),
            key=lambda path: path.stat().st_mtime,
        )
        sizes = {path: sum(file.stat().st_size for file in path.iterdir()) for path in folders}
        total = sum(sizes.values())
        for path in folders:
            if total <= self._bytes_max:
                return
            with self._lock_file(path).open("wb") as handle:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    continue
                shutil.rmtree(path, ignore_errors=True)
                total -= sizes[path]
