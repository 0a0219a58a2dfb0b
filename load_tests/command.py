"""What every benchmark does alike at the command line.

Help names defaults, lists of names are read in one way, a result is one JSON object of finite numbers, and
an interrupt ends what was started and is no traceback.
"""

import argparse
import json
import math
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

_INTERRUPTED = 130
_TERMINATED = 143
_ROOT = Path(__file__).resolve().parent.parent


class Parser(argparse.ArgumentParser):
    """A parser that writes defaults into the help."""

    def add_argument(self, *flags: Any, **facts: Any) -> argparse.Action:
        """Add an option; its default is appended to its help."""
        action = super().add_argument(*flags, **facts)
        told = action.help or ""
        silent = action.nargs == 0 or action.default in (None, [], argparse.SUPPRESS)
        if not silent and "%(default)" not in told and told != argparse.SUPPRESS:
            action.help = f"{told} ({_shown(action.default).replace('%', '%%')})".strip()
        return action


def _shown(default: Any) -> str:
    if isinstance(default, Path) and default.is_relative_to(_ROOT):
        return str(default.relative_to(_ROOT))
    if isinstance(default, (list, tuple)):
        return " ".join(map(str, default))
    return str(default)


def names_of(texts: str | Iterable[str], known: Sequence[str], kind: str) -> list[str]:
    """The names that an option lists, with commas or spaces; `all` are all of them.

    Args:
        texts: what was given, in one piece or several.
        known: the names there are.
        kind: what they are names of, for the message.

    Raises:
        ValueError: a name is not known, or there is none; the message lists the known ones.
    """
    given = [texts] if isinstance(texts, str) else texts
    names = [name for text in given for name in text.replace(",", " ").split()]
    if names == ["all"]:
        return list(known)
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        lacking = f"no {kind} {unknown[0]!r}" if unknown else f"no {kind} given"
        raise ValueError(f"{lacking}; there are {', '.join(known)}, or all")
    return list(dict.fromkeys(names))


def spelled(module: str, arguments: Sequence[str] | None) -> str:
    """The command as one would type it again."""
    given = sys.argv[1:] if arguments is None else arguments
    return shlex.join(["python", "-m", f"load_tests.{module}", *given])


def print_json(result: Any) -> None:
    """One JSON object on standard output; what is no finite number is null there."""
    print(json.dumps(_finite(result), allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def told_if_unanswered(answered: bool, url: str) -> int:
    """The exit status of a load, and a line if it tells nothing of the server but that it gave no answer."""
    if not answered:
        print(f"no request was answered by {url}", file=sys.stderr)
    return int(not answered)


def exit_with(main: Callable[[], int | None]) -> NoReturn:
    """Run a benchmark and end the process with its status."""
    # A polite request to end runs the clean-up too, so that nothing is left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))
    try:
        status = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = _INTERRUPTED
    except BrokenPipeError:
        _nobody_reads()
        status = 0
    sys.exit(status)


def _nobody_reads() -> None:
    """`… | head`: Python would complain once more when it flushes standard output at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
