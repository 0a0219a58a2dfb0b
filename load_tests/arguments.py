"""Command line values, checked while they are read: every load is bounded and stays on this machine."""

import argparse
from pathlib import Path
from typing import Any

from load_tests.client import Target, parse_target


def bounded(kind: type[int] | type[float], least: float, most: float) -> Any:
    """An argparse type: a number between two bounds."""

    def read(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text} is not between {least:g} and {most:g}")
        return value

    return read


def existing_file(text: str) -> Path:
    """An argparse type: a file that is there."""
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"{text}: no such file")
    return path


def loopback(url: str) -> Target:
    """An argparse type: a target on this machine."""
    try:
        return parse_target(url)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
