"""The coordinator's files: each whole or not there, the last three versions of each kept.

`catalogue.json` is written before a change is acknowledged, `learned.npz` now and then: what is missing there
the nodes tell again, because it is acknowledged to them only once it is on the disk.
"""

import contextlib
import hashlib
import io
import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from cluster.entities.adapters import AdapterCatalogue
from cluster.policy.paging.contributions import Contribution
from cluster.replay.codec import decoder, encode
from operators.pager.catalogue import CatalogueState

logger = logging.getLogger("tidemill.adapters.coordinator")

_FORMAT = 1
_KEPT = 3
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """What the coordinator has gathered."""

    contributions: tuple[Contribution, ...] = ()
    acknowledged: dict[str, int] | None = None
    """By source, the version up to which it has been told everything."""


class CoordinatorStore:
    """One folder. Not thread-safe."""

    def __init__(self, folder: Path, *, encoder: str, dimension: int) -> None:
        """Touch nothing yet.

        Args:
            folder: made when something is written.
            encoder: makes the vectors that stand for requests; what was learnt with another one is dropped.
            dimension: of those vectors.
        """
        self._catalogue = folder / "catalogue.json"
        self._learned = folder / "learned.npz"
        self._dimension = dimension
        self._basis: dict[str, str | int] = {"encoder": encoder, "dimension": dimension}

    def load_catalogue(self) -> CatalogueState | None:
        """The newest whole one; None if there is none."""
        return _newest(self._catalogue, _catalogue_from)

    def save_catalogue(self, state: CatalogueState) -> None:
        """When this returns, it survives the process and the machine.

        Raises:
            OSError: the disk is full or gone; the files are as they were.
        """
        content = {
            "format": _FORMAT,
            "catalogue": encode(state.catalogue),
            "configured": state.configured,
        }
        _replace(self._catalogue, json.dumps(content, separators=(",", ":")).encode())

    def load_learned(self) -> Learned:
        """The newest whole one, or nothing."""
        return _newest(self._learned, self._learned_from) or Learned()

    def save_learned(self, learned: Learned) -> None:
        """See `save_catalogue`.

        Raises:
            OSError: the disk is full or gone.
        """
        found = learned.contributions
        head = {
            "format": _FORMAT,
            **self._basis,
            "acknowledged": learned.acknowledged or {},
            "contributions": [[c.source, c.adapter, c.version, c.count] for c in found],
        }
        d = self._dimension
        file = io.BytesIO()
        np.savez(
            file,
            head=np.frombuffer(json.dumps(head).encode(), dtype=np.uint8),
            response=np.array([c.response for c in found]).reshape(len(found), d),
            gram=np.array([c.gram for c in found]).reshape(len(found), d, d),
        )
        _replace(self._learned, file.getvalue())

    def _learned_from(self, body: bytes) -> Learned:
        with np.load(io.BytesIO(body), allow_pickle=False) as arrays:
            head: dict[str, Any] = json.loads(arrays["head"].tobytes())
            if head["format"] != _FORMAT or any(head[name] != value for name, value in self._basis.items()):
                raise ValueError(f"it is of {head['encoder']} in {head['dimension']} dimensions")
            rows = zip(head["contributions"], arrays["response"], arrays["gram"], strict=True)
            return Learned(
                contributions=tuple(
                    Contribution(
                        source=source,
                        adapter=adapter,
                        version=version,
                        count=count,
                        response=response,
                        gram=gram,
                    )
                    for (source, adapter, version, count), response, gram in rows
                ),
                acknowledged=dict(head["acknowledged"]),
            )


def _catalogue_from(body: bytes) -> CatalogueState:
    content = json.loads(body)
    if content["format"] != _FORMAT:
        raise ValueError(f"it is of format {content['format']}")
    return CatalogueState(
        catalogue=decoder(AdapterCatalogue)(content["catalogue"], "catalogue"),
        configured={str(name): str(value) for name, value in content["configured"].items()},
    )


def _versions(path: Path) -> list[Path]:
    return [path, *(path.with_suffix(f".{number}{path.suffix}") for number in range(1, _KEPT))]


def _newest(path: Path, read: Callable[[bytes], T]) -> T | None:
    for version in _versions(path):
        try:
            digest, _, body = version.read_bytes().partition(b"\n")
            if hashlib.sha256(body).hexdigest().encode() != digest:
                raise ValueError("it is torn or was changed (checksum)")
            return read(body)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("%s cannot be used: %s", version, error)
    return None


def _replace(path: Path, body: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    with new.open("wb") as file:
        file.write(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
        file.flush()
        os.fsync(file.fileno())
    versions = _versions(path)
    for older, newer in zip(versions[:0:-1], versions[-2::-1], strict=True):
        # Linked, so that the newest is there at every instant, whatever is killed when.
        with contextlib.suppress(FileNotFoundError):
            older.unlink(missing_ok=True)
            os.link(newer, older)
    new.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
