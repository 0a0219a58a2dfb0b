"""Ctrl-C and its relatives: the first one stops things in order, a second Ctrl-C stops them at once."""

import ctypes
import os
import signal
import time
from types import FrameType, TracebackType
from typing import Self

_AGAIN_AFTER_S = 1.0
"""A signal to the process group and one to the process can arrive together; that is not impatience."""
_PR_SET_PDEATHSIG = 1


class StopRequested(BaseException):
    """The user or the system wants the command to end. Not an Exception: nothing may swallow it."""


class StopSignals:
    """While entered, turns SIGINT, SIGTERM and SIGHUP into StopRequested in the main thread."""

    def __init__(self) -> None:
        self._first_at_s: float | None = None
        self._given_up = False
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        now_s = time.monotonic()
        if self._first_at_s is None:
            self._first_at_s = now_s
            raise StopRequested
        impatient = number == signal.SIGINT and now_s - self._first_at_s > _AGAIN_AFTER_S
        if impatient and not self._given_up:
            self._given_up = True
            raise StopRequested

    def begin_stopping(self) -> None:
        """From here on the first signal has been: whatever made us stop, one Ctrl-C more is the second."""
        if self._first_at_s is None:
            self._first_at_s = time.monotonic() - _AGAIN_AFTER_S


def stop_with_parent() -> None:
    """Ask the kernel for a SIGTERM when the parent process dies (`make run` that is killed).

    A parent that is gone already counts as dying now.
    """
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)
