"""Keeps what the solver prints off standard output, where a result stands alone.

HiGHS writes a line there whenever it takes a solution through a smaller program, whatever its options say.
"""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_STDOUT, _STDERR = 1, 2


@contextmanager
def solver_output_on_stderr() -> Iterator[None]:
    """While it lasts, what this process and its children write to standard output goes to standard error."""
    sys.stdout.flush()
    kept = os.dup(_STDOUT)
    os.dup2(_STDERR, _STDOUT)
    try:
        yield
    finally:
        sys.stdout.flush()
        # C's own buffer would else be written after standard output is back.
        ctypes.CDLL(None).fflush(None)
        os.dup2(kept, _STDOUT)
        os.close(kept)
