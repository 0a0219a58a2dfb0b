"""What a pager keeps over a restart: what it learnt, and which numbers and hashes adapters have.

One file, whole or not there, and the two before it. Residency is not in it: that is asked of the engine. Each
replica of a machine has a folder of its own, which it locks for as long as it lives.
"""

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import uuid
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from cluster.policy.paging.core import PagerCore
from cluster.policy.paging.interface import PagedAdapter

logger = logging.getLogger("tidemill.adapters")

_SCHEMA = 1
_FILES = ("state.npz", "state.1.npz", "state.2.npz")
_SAVE_EVERY_S = 15.0
_CLAIMS_MAX = 1000

Arrays = Mapping[str, NDArray[np.generic]]


class PagerMemory:
    """The files of one replica."""

    def __init__(self, root: Path, name: str, *, encoder: str, dimension: int) -> None:
        """Claim a folder and read what is in it.

        Args:
            root: of all pagers on this machine.
            name: of the pool.
            encoder: makes the vectors that stand for requests; what was learnt with another one is dropped.
            dimension: of those vectors.
        """
        self._encoder = encoder
        self._dimension = dimension
        self._folder, self._claim = _claimed(root, name)
        self._numbers: dict[str, int] = {}
        self._hashes: dict[str, str] = {}
        self._arrays: Arrays | None = None
        self.adapters: tuple[PagedAdapter, ...] = ()
        """Those that the core knows, or knew when its state was saved."""
        self._saved: int | None = None
        self.source = f"{name}-{uuid.uuid4().hex[:12]}"
        """Under which this replica's observations are known elsewhere; a new one without the files."""
        self._read()

    def close(self) -> None:
        """Give the folder back."""
        self._claim.close()

    def number_of(self, sha256: str) -> int:
        """An adapter's number in the engine: always the same, never another adapter's."""
        if sha256 not in self._numbers:
            self._numbers[sha256] = 1 + max(self._numbers.values(), default=0)
        return self._numbers[sha256]

    def sha256_of(self, source: str) -> str:
        """What the source's files had when they were last seen; empty if they never were."""
        return self._hashes.get(source, "")

    def describe(self, source: str, sha256: str) -> None:
        """The files of a source were seen."""
        self._hashes[source] = sha256

    def restore(self, core: PagerCore) -> None:
        """Give a fresh core back what it had learnt; today's catalogue is to be set afterwards."""
        if self._arrays is None:
            return
        try:
            core.set_catalogue(self.adapters)
            arrays = dict(self._arrays)
            if str(arrays.pop("encoder")) != self._encoder:
                logger.warning("another encoder than when adapters were judged: only their use is remembered")
                arrays |= {k: v for k, v in core.arrays().items() if k.startswith("statistics.")}
            core.restore(arrays)
        except (ValueError, KeyError, TypeError) as error:
            logger.warning("what was learnt about adapters cannot be used: %s", error)
            self.adapters = ()
            core.set_catalogue(())

    async def keep(self, core: PagerCore) -> None:
        """Save at once, so that a crash does not cost this replica its name, and when something is new."""
        while True:
            await self.save(core)
            await asyncio.sleep(_SAVE_EVERY_S)

    async def save(self, core: PagerCore) -> None:
        """Write what is known now, unless it was written already. A full disk is only a warning."""
        arrays = {name: np.array(value) for name, value in core.arrays().items()}
        stamp = hash((int(arrays["seen"]), core.statistics.version, core.keys, len(self._hashes)))
        if stamp == self._saved:
            return
        manifest = {
            "schema": _SCHEMA,
            "source": self.source,
            "dimension": self._dimension,
            "numbers": self._numbers,
            "hashes": self._hashes,
            "adapters": [asdict(adapter) for adapter in self.adapters],
        }
        try:
            await asyncio.to_thread(self._write, manifest, arrays)
            self._saved = stamp
        except OSError as error:
            logger.warning("what was learnt about adapters cannot be saved: %s", error)

    def _write(self, manifest: dict[str, Any], arrays: Arrays) -> None:
        new = self._folder / "state.new"
        with new.open("wb") as file:
            np.savez(
                file,
                allow_pickle=False,
                manifest=np.array(json.dumps(manifest)),
                encoder=np.array(self._encoder),
                **arrays,
            )
            file.flush()
            os.fsync(file.fileno())
        for older, newer in zip(_FILES[:0:-1], _FILES[-2::-1], strict=True):
            with contextlib.suppress(FileNotFoundError):
                (self._folder / newer).replace(self._folder / older)
        new.replace(self._folder / _FILES[0])
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _read(self) -> None:
        for name in _FILES:
            path = self._folder / name
            try:
                with np.load(path, allow_pickle=False) as found:
                    arrays = {key: found[key] for key in found.files}
                manifest = json.loads(str(arrays.pop("manifest")))
                if manifest["schema"] != _SCHEMA:
                    raise ValueError(f"schema {manifest['schema']}")
                adapters = tuple(PagedAdapter(**entry) for entry in manifest["adapters"])
                numbers = {str(key): int(number) for key, number in manifest["numbers"].items()}
            except FileNotFoundError:
                continue
            except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, EOFError) as error:
                logger.warning("%s cannot be used: %s", path, error)
                continue
            self._numbers, self._hashes = numbers, dict(manifest["hashes"])
            self.source = str(manifest["source"])
            if manifest["dimension"] == self._dimension:
                self._arrays, self.adapters = arrays, adapters
            return


def _claimed(root: Path, name: str) -> tuple[Path, IO[bytes]]:
    """The first folder of that name that no other replica on this machine has."""
    for index in range(_CLAIMS_MAX):
        folder = root / f"{name}-{index}"
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / "lock").open("wb")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            handle.close()
            continue
        return folder, handle
    raise OSError(f"{root}: {_CLAIMS_MAX} pagers of {name} on one machine")
