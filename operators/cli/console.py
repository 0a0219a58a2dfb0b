"""What the commands say, in three forms: for a terminal, for a pipe, and as JSON events for programs."""

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol, TextIO, cast

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


class CliError(Exception):
    """A command cannot go on; the message is one clear line for the person who typed it.

    Attributes:
        exit_code: 1 for a failure, 2 for wrong use.
        details: further lines, such as an engine's last words.
    """

    def __init__(self, message: str, *, exit_code: int = 1, details: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.details = details


class Reporter(Protocol):
    """How a long command tells what it does."""

    def step(self, text: str) -> AbstractContextManager[None]:
        """Something that takes time; leaving the context says that it is done."""

    def note(self, text: str) -> None:
        """Something worth a line."""

    def event(self, name: str, text: str, **fields: Any) -> None:
        """Something a program may wait for; `text` is its form for people."""

    def error(self, message: str, details: tuple[str, ...] = ()) -> None:
        """Why the command gives up."""


class Enduring:
    """A stream to a reader who may have gone, which must keep no command from cleaning up."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, if that is possible."""
        with contextlib.suppress(OSError, ValueError):  # a broken pipe, a terminal that is gone
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, if that is possible."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class JsonReporter:
    """One JSON object per line on standard output."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @contextlib.contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Emit `step` and, if nothing was raised, `done` with the seconds it took."""
        began_at_s = time.monotonic()
        self._emit("step", text=text)
        yield
        self._emit("done", text=text, seconds=round(time.monotonic() - began_at_s, 3))

    def note(self, text: str) -> None:
        """Emit `note`."""
        self._emit("note", text=text)

    def event(self, name: str, text: str, **fields: Any) -> None:
        """Emit the event with its fields."""
        self._emit(name, text=text, **fields)

    def error(self, message: str, details: tuple[str, ...] = ()) -> None:
        """Emit `error`."""
        self._emit("error", message=message, details=list(details))

    def _emit(self, name: str, **fields: Any) -> None:
        print(json.dumps({"event": name, **fields}, ensure_ascii=False), file=self._stream, flush=True)


class PlainReporter:
    """Lines without control characters, for pipes and logs."""

    def __init__(self, stream: TextIO, errors: TextIO) -> None:
        self._stream = stream
        self._errors = errors

    @contextlib.contextmanager
    def step(self, text: str) -> Iterator[None]:
        """A line when it begins and one when it is done."""
        began_at_s = time.monotonic()
        self.note(f"{text} …")
        yield
        self.note(f"{text}: done in {time.monotonic() - began_at_s:.1f} s")

    def note(self, text: str) -> None:
        """A line."""
        print(text, file=self._stream, flush=True)

    def event(self, name: str, text: str, **fields: Any) -> None:
        """Its text."""
        del name, fields
        self.note(text)

    def error(self, message: str, details: tuple[str, ...] = ()) -> None:
        """The message and its details on standard error."""
        for line in (f"tidemill: {message}", *(f"  {detail}" for detail in details)):
            print(line, file=self._errors, flush=True)


class TerminalReporter:
    """A spinner with the elapsed time while a step runs, one line once it is done."""

    def __init__(self, console: Console, errors: Console) -> None:
        self._console = console
        self._errors = errors
        self._progress: Progress | None = None

    @contextlib.contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Show the step as long as it runs."""
        began_at_s = time.monotonic()
        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
        with Progress(*columns, console=self._console, transient=True) as progress:
            progress.add_task(text, total=None)
            self._progress = progress
            try:
                yield
            finally:
                self._progress = None
        self.note(f"✓ {text} ({time.monotonic() - began_at_s:.1f} s)")

    def note(self, text: str) -> None:
        """A line, above the spinner if one runs."""
        target = self._console if self._progress is None else self._progress.console
        # soft_wrap: an address or command that is broken over two lines can't be copied.
        target.print(text, markup=False, highlight=False, soft_wrap=True)

    def event(self, name: str, text: str, **fields: Any) -> None:
        """Its text."""
        del name, fields
        self.note(text)

    def error(self, message: str, details: tuple[str, ...] = ()) -> None:
        """The message in red, its details below."""
        self._errors.print(f"tidemill: {message}", style="red", markup=False, highlight=False, soft_wrap=True)
        for detail in details:
            self._errors.print(f"  {detail}", style="dim", markup=False, highlight=False, soft_wrap=True)


def reporter_for(*, json_events: bool) -> Reporter:
    """The reporter that fits how the command was called."""
    out, errors = cast("TextIO", Enduring(sys.stdout)), cast("TextIO", Enduring(sys.stderr))
    if json_events:
        return JsonReporter(out)
    if sys.stdout.isatty():
        return TerminalReporter(Console(file=out), Console(file=errors))
    return PlainReporter(out, errors)
