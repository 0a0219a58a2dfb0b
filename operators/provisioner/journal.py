"""What outlives the provisioner: its log of decisions, and its state."""

import contextlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from cluster.config import TidemillConfig
from cluster.entities.fleet import FleetDecision, FleetSnapshot, ProvisionerState
from cluster.performance.reported import LearntSpeed
from cluster.replay import DecisionLogError
from cluster.replay.provisioning import (
    CHECKPOINT_RECORDS,
    header_line,
    is_cut_short,
    learnt_of,
    learnt_text,
    record_line,
    state_of,
    state_text,
)

logger = logging.getLogger("tidemill.provisioner")

LOG_NAME = "decisions.jsonl"
STATE_NAME = "state.json"
LEARNT_NAME = "learnt.json"


class Journal:
    """Three files in one folder; the log is cut in two halves so that it stays bounded.

    A full or absent disk concerns `write` alone: a provisioner that is restarted meanwhile must come up.
    """

    def __init__(self, folder: Path, config: TidemillConfig, policy: str) -> None:
        """Touch nothing yet.

        Args:
            folder: made if it is not there.
            config: written into the log's header.
            policy: as well.
        """
        self._folder = folder
        self._header = header_line(policy, config)
        self._records_max = config.provisioning.log_records_max // 2
        self._records = 0
        self._checkpoint_due = False
        """Whether the state does not follow from what is in the log."""
        self._sound_bytes: int | None = None
        """Length of the log without what a failed write has left of itself; None until it is opened."""

    def restore(self) -> ProvisionerState:
        """The state that the last decision left; a new one if there is none that can be read."""
        path = self._folder / STATE_NAME
        try:
            return state_of(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return ProvisionerState()
        except (OSError, DecisionLogError) as error:
            logger.warning("state in %s cannot be read, beginning anew: %s", path, error)
            return ProvisionerState()

    def restore_learnt(self) -> dict[str, LearntSpeed]:
        """What is known of the pools' speed; nothing if it cannot be read."""
        path = self._folder / LEARNT_NAME
        try:
            return learnt_of(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, DecisionLogError) as error:
            logger.warning("%s cannot be read, learning anew: %s", path, error)
            return {}

    def keep_learnt(self, learnt: Mapping[str, LearntSpeed]) -> None:
        """Keep what is known of the pools' speed.

        Raises:
            OSError: the disk is full or gone.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        _replace(self._folder / LEARNT_NAME, learnt_text(learnt))

    def write(self, snapshot: FleetSnapshot, before: ProvisionerState, decision: FleetDecision) -> None:
        """Append a decision and keep the state it leaves: both or neither.

        Raises:
            OSError: the disk is full or gone.
        """
        if self._sound_bytes is None:
            self._begin()
        if self._records >= self._records_max:
            self._rotate()
        checkpoint = self._records % CHECKPOINT_RECORDS == 0 or self._checkpoint_due
        line = record_line(snapshot, decision, state_before=before if checkpoint else None)
        self._cut()
        with (self._folder / LOG_NAME).open("a", encoding="utf-8") as log:
            log.write(line)
        _replace(self._folder / STATE_NAME, state_text(decision.state))
        self._records += 1
        self._checkpoint_due = is_cut_short(decision.reasons)
        self._note_length()

    def _cut(self) -> None:
        """Remove what a failed write has left: half a line, or a decision that was not carried out."""
        log = self._folder / LOG_NAME
        if self._sound_bytes is not None and log.exists() and log.stat().st_size > self._sound_bytes:
            os.truncate(log, self._sound_bytes)

    def _note_length(self) -> None:
        self._sound_bytes = (self._folder / LOG_NAME).stat().st_size

    def _begin(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        log = self._folder / LOG_NAME
        torn = False
        with contextlib.suppress(OSError), log.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            torn = file.read(1) != b"\n"
        if torn:
            # The last line was being written when a provisioner died; it says nothing any more.
            os.truncate(log, log.read_bytes().rfind(b"\n") + 1)
        self._records = 0
        with contextlib.suppress(FileNotFoundError), log.open("rb") as file:
            self._records = sum(1 for _ in file)
        if self._records >= self._records_max:
            self._rotate()
            return
        # A restart is a header, and the next record a checkpoint.
        with log.open("a", encoding="utf-8") as file:
            file.write(self._header)
        self._note_length()
        self._records += CHECKPOINT_RECORDS - self._records % CHECKPOINT_RECORDS

    def _rotate(self) -> None:
        log = self._folder / LOG_NAME
        # Written before anything is moved: on a full disk the older half would otherwise be lost for nothing.
        new = log.with_suffix(".new")
        new.write_text(self._header, encoding="utf-8")
        self._cut()
        log.replace(log.with_suffix(".1.jsonl"))
        new.replace(log)
        self._records = 0
        self._note_length()


def _replace(path: Path, text: str) -> None:
    """Put a text in a file's place: at any instant the whole old one is there, or the whole new one."""
    new = path.with_suffix(".new")
    with new.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
