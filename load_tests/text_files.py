"""Files that benchmarks are given: gzipped or not whatever their name says, with line ends of any system.

Published tables come by many hands. What cannot be read is said with the file and the line, because whoever
made the file is seldom who runs the benchmark.
"""

import csv
import gzip
import io
import itertools
import json
import math
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class FileError(ValueError):
    """A file cannot be read or has another form; the message names it and, where known, the line."""


@contextmanager
def opened(path: Path) -> Iterator[IO[str]]:
    """The file's text, unpacked.

    Raises:
        FileError: it cannot be read, or is damaged.
    """
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if zipped else path.open("rb") as binary:
            yield io.TextIOWrapper(binary, encoding="utf-8-sig", newline="")
    except UnicodeDecodeError as error:
        raise FileError(f"{path}: not UTF-8 text (byte {error.object[error.start]:#04x})") from error
    except OSError as error:
        raise FileError(f"{path}: {error.strerror or error}") from error
    except (EOFError, zlib.error, csv.Error) as error:
        raise FileError(f"{path}: {error}") from error


def json_rows(path: Path, keys: Sequence[str] = ()) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file with one on each line, with the numbers of the lines; blank lines are none.

    Args:
        path: of the file.
        keys: that every object must have.

    Raises:
        FileError: a line is no object, or lacks a key; or there is none.
    """
    found = False
    with opened(path) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                found = True
                yield number, _object(line, keys, f"{path}: line {number}")
    if not found:
        raise FileError(f"{path}: is empty")


def json_document(path: Path) -> Any:
    """A file that is one JSON document.

    Raises:
        FileError: it is none.
    """
    with opened(path) as text:
        try:
            return json.loads(text.read())
        except ValueError as error:
            if isinstance(error, UnicodeDecodeError):
                raise
            raise FileError(f"{path}: not JSON: {error}") from error


def csv_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV file with a header, in which columns may stand in any order and beside others.

    Args:
        path: of the file.
        columns: that every row must have.

    Raises:
        FileError: a column is missing, in the header or in a row; or there is no row.
    """
    found = False
    with opened(path) as lines:
        rows = csv.DictReader(itertools.dropwhile(_is_blank, lines), skipinitialspace=True)
        rows.fieldnames = [field.strip() for field in rows.fieldnames or ()]
        missing = [column for column in columns if column not in rows.fieldnames]
        if not rows.fieldnames:
            raise FileError(f"{path}: is empty")
        if missing:
            there = ", ".join(rows.fieldnames[:8])
            raise FileError(f"{path}: no column {', '.join(missing)}; there are {there}")
        for row in rows:
            found = True
            lacking = [column for column in columns if row[column] is None]
            if lacking:
                raise FileError(f"{path}: line {rows.line_num}: ends before column {lacking[0]}")
            yield rows.line_num, row
    if not found:
        raise FileError(f"{path}: has a header and no row")


def number_of(value: Any, where: str) -> float:
    """A finite number as a file has it.

    Raises:
        FileError: it is none; the message begins with `where`.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise FileError(f"{where}: {value!r} is no number")
    return number


def _is_blank(line: str) -> bool:
    return not line.strip()


def _object(line: str, keys: Sequence[str], where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise FileError(f"{where} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise FileError(f"{where}: expected an object")
    if _SURROGATE.search(line):
        # Half a character, cut off by somebody: neither encoder nor hash takes it.
        row = dict(json.loads(json.dumps(row, ensure_ascii=False).encode("utf-8", "replace")))
    missing = [key for key in keys if key not in row]
    if missing:
        raise FileError(f"{where}: no key {missing[0]!r}; there are {', '.join(list(row)[:8])}")
    return row
