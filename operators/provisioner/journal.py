"""What outlives the provisioner: its log of decisions, and its state."""

import contextlib
import logging
import os
from pathlib import Path

from cluster.config import TidemillConfig
from cluster.entities.fleet import FleetDecision, FleetSnapshot, ProvisionerState
from cluster.replay import DecisionLogError
from cluster.replay.provisioning import CHECKPOINT_RECORDS, header_line, record_line, state_of, state_text

logger = logging.getLogger("tidemill.provisioner")

LOG_NAME = "decisions.jsonl"
STATE_NAME = "state.json"


class Journal:
    """Two files in one folder; the log is cut in two halves so that it stays bounded."""

    def __init__(self, folder: Path, config: TidemillConfig, policy: str) -> None:
        """Open the folder.

        Args:
            folder: made if it is not there.
            config: written into the log's header.
            policy: as well.
        """
        self._folder = folder
        self._header = header_line(policy, config)
        self._records_max = config.provisioning.log_records_max // 2
        self._records = 0
        folder.mkdir(parents=True, exist_ok=True)
        self._begin()

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

    def write(self, snapshot: FleetSnapshot, before: ProvisionerState, decision: FleetDecision) -> None:
        """Append a decision and keep the state it leaves.

        Raises:
            OSError: the disk is full or gone.
        """
        if self._records >= self._records_max:
            self._rotate()
        checkpoint = self._records % CHECKPOINT_RECORDS == 0
        line = record_line(snapshot, decision, state_before=before if checkpoint else None)
        with (self._folder / LOG_NAME).open("a", encoding="utf-8") as log:
            log.write(line)
        self._records += 1
        self._keep(decision.state)

    def _begin(self) -> None:
        log = self._folder / LOG_NAME
        torn = False
        with contextlib.suppress(OSError), log.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            torn = file.read(1) != b"\n"
        if torn:
            # The last line was being written when a provisioner died; it says nothing any more.
            content = log.read_bytes()
            log.write_bytes(content[: content.rfind(b"\n") + 1])
        with contextlib.suppress(OSError), log.open("rb") as file:
            self._records = sum(1 for _ in file)
        if self._records >= self._records_max:
            self._rotate()
            return
        # A restart is a header, and the next record a checkpoint.
        with log.open("a", encoding="utf-8") as file:
            file.write(self._header)
        self._records += CHECKPOINT_RECORDS - self._records % CHECKPOINT_RECORDS

    def _rotate(self) -> None:
        log = self._folder / LOG_NAME
        log.replace(log.with_suffix(".1.jsonl"))
        log.write_text(self._header, encoding="utf-8")
        self._records = 0

    def _keep(self, state: ProvisionerState) -> None:
        path = self._folder / STATE_NAME
        new = path.with_suffix(".new")
        with new.open("w", encoding="utf-8") as file:
            file.write(state_text(state))
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
