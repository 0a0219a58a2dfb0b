"""The learner's files: snapshots that are whole or not there, and a journal of what came after them.

Per policy: `POLICY.json` is the last snapshot, `POLICY.1.json` the one before it, and beside each of them,
with the ending `.jsonl`, the events that came after it; older journals, with higher numbers, are kept for
people and for `tidemill evaluate`. A line holds its number, a snapshot that of the last event in it; so
whatever was torn when the learner died, the newest whole snapshot and the whole lines after it give all that
was acknowledged, or the log says what is missing.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.config.model_learning import ModelLearningConfig
from cluster.entities.model_routing import ModelOutcome
from cluster.replay.codec import DecisionLogError, decoder, encode
from deployments.model_learning.state import Event, Feedback, LearnerState, PendingDecision

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class _Snapshot:
    sequence: int
    """Events that are in it."""
    version: int
    state: Any
    pending: tuple[PendingDecision, ...]


class LearnerStore:
    """One policy's files in one folder. Not thread-safe."""

    def __init__(self, folder: Path, policy: str, config: ModelLearningConfig) -> None:
        """Touch nothing yet.

        Args:
            folder: made when something is written.
            policy: name of the policy; another one's files are left alone.
            config: bounds.
        """
        self._events_max = config.journal_events_max
        self._folder = folder
        self._snapshots = (folder / f"{policy}.json", folder / f"{policy}.1.json")
        older = (folder / f"{policy}.{number}.jsonl" for number in range(1, config.journals_max))
        self._journals = (folder / f"{policy}.jsonl", *older)
        self._events = 0
        """In the journal that is being written."""
        self._sequence = 0
        self._sound_bytes = 0
        """Length of the journal without what a failed write has left of itself."""
        self._opened = False
        """Whether what an earlier process left of a last line is cut."""
        self._encoded: dict[str, str] = {}
        """Outcomes as they stand in the journal: each is encoded once, not with every snapshot."""

    def restore(self, learner: LearnerState) -> list[str]:
        """Bring a fresh learner to where the files end; what could not be read, in words."""
        notes: list[str] = []
        found = self._newest(learner, notes)
        if found is not None:
            learner.restore(found.state, found.version, found.pending)
            self._sequence = found.sequence
        for journal in reversed(self._journals[:3]):
            self._events = 0
            for sequence, event in _lines(journal, notes):
                self._events += 1
                if sequence <= self._sequence:
                    continue
                if sequence != self._sequence + 1:
                    notes.append(f"{journal.name}: events {self._sequence + 1} to {sequence - 1} are missing")
                learner.apply(event)
                self._sequence = sequence
        return notes

    def _newest(self, learner: LearnerState, notes: list[str]) -> _Snapshot | None:
        for path in self._snapshots:
            try:
                return _read_snapshot(path, learner)
            except FileNotFoundError:
                continue
            except (OSError, ValueError, KeyError, TypeError) as error:
                notes.append(f"{path.name} cannot be used: {error}")
        return None

    @property
    def is_full(self) -> bool:
        """Whether a snapshot is due."""
        return self._events >= self._events_max

    def append(self, events: Iterable[Event]) -> None:
        """Add events to the journal; when this returns they survive the process and the machine.

        Raises:
            OSError: the disk is full or gone; the next call removes what this one has left.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        journal = self._journals[0]
        if not self._opened:
            # A line that was torn when the last process died must not swallow the first of this one.
            self._sound_bytes = _cut_torn_line(journal)
            self._opened = True
        sequence, lines = self._sequence, []
        for event in events:
            sequence += 1
            kind = "outcome" if isinstance(event, ModelOutcome) else "feedback"
            lines.append(
                json.dumps({"sequence": sequence, kind: encode(event)}, separators=(",", ":")) + "\n"
            )
        with journal.open("ab") as file:
            os.truncate(journal, self._sound_bytes)
            file.write("".join(lines).encode())
            file.flush()
            os.fsync(file.fileno())
            self._sound_bytes = file.tell()
        self._sequence = sequence
        self._events += len(lines)

    def save(self, learner: LearnerState) -> None:
        """Write a snapshot and begin a journal after it; at any instant one whole pair is there.

        Raises:
            OSError: the disk is full or gone; the old files are as they were.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        new = self._snapshots[0].with_suffix(".new")
        with new.open("wb") as file:
            file.write(self._snapshot(learner))
            file.flush()
            os.fsync(file.fileno())
        # Should it die between two of these, numbers tell which lines are in which snapshot.
        for files in (self._journals, self._snapshots):
            for older, newer in zip(files[:0:-1], files[-2::-1], strict=True):
                with contextlib.suppress(FileNotFoundError):
                    newer.replace(older)
        new.replace(self._snapshots[0])
        self._sound_bytes, self._opened, self._events = 0, True, 0
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _snapshot(self, learner: LearnerState) -> bytes:
        known, self._encoded = self._encoded, {}
        entries = []
        for entry in learner.pending:
            name = entry.outcome.decision_id
            text = self._encoded[name] = known.get(name) or _text(entry.outcome)
            entries.append(f'{{"outcome":{text},"rewards":{_text(entry.rewards)}}}')
        head = {
            "format": _FORMAT,
            "policy": learner.policy.name,
            "sequence": self._sequence,
            "version": learner.version,
            "state": learner.policy.to_json(learner.state).decode(),
        }
        body = f'{_text(head)[:-1]},"pending":[{",".join(entries)}]}}'.encode()
        return hashlib.sha256(body).hexdigest().encode() + b"\n" + body + b"\n"


def _text(value: Any) -> str:
    return json.dumps(encode(value), separators=(",", ":"))


def _read_snapshot(path: Path, learner: LearnerState) -> _Snapshot:
    digest, _, rest = path.read_bytes().partition(b"\n")
    body = rest.removesuffix(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise ValueError("it is torn or was changed (checksum)")
    content = json.loads(body)
    if content["format"] != _FORMAT or content["policy"] != learner.policy.name:
        raise ValueError(f"it is of format {content['format']} and policy {content['policy']}")
    decode_outcome = decoder(ModelOutcome)
    pending = tuple(
        PendingDecision(decode_outcome(entry["outcome"], "outcome"), dict(entry["rewards"]))
        for entry in content["pending"]
    )
    state = learner.policy.from_json(content["state"].encode())
    return _Snapshot(int(content["sequence"]), int(content["version"]), state, pending)


def _lines(journal: Path, notes: list[str]) -> Iterator[tuple[int, Event]]:
    """The whole events of a journal with their numbers."""
    try:
        content = journal.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        notes.append(f"{journal.name} cannot be read: {error}")
        return
    whole, _, torn = content.rpartition(b"\n")
    if torn:
        notes.append(f"{journal.name}: its last line was being written and was not acknowledged")
    for number, line in enumerate(whole.split(b"\n") if whole else (), start=1):
        try:
            data = json.loads(line)
            if "outcome" in data:
                event: Event = decoder(ModelOutcome)(data["outcome"], "outcome")
            else:
                event = decoder(Feedback)(data["feedback"], "feedback")
            yield int(data["sequence"]), event
        except (ValueError, KeyError, TypeError, DecisionLogError) as error:
            notes.append(f"{journal.name}, line {number}: {error}")


def _cut_torn_line(journal: Path) -> int:
    """Remove what a killed process left of a last line; the length that is left."""
    try:
        content = journal.read_bytes()
    except FileNotFoundError:
        journal.touch()
        return 0
    sound = content.rfind(b"\n") + 1
    os.truncate(journal, sound)
    return sound
