"""A result stands alone on standard output, whatever the solver's library prints."""

import subprocess
import sys

_PROGRAM = """
import ctypes, os
from cluster.simulation.solver_output import solver_output_on_stderr
libc = ctypes.CDLL(None)
with solver_output_on_stderr():
    libc.puts(b"from C")
    print("from Python")
    os.system("echo from a child")
print("result")
"""


def test_only_the_result_is_on_standard_output():
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout == "result\n"
    assert sorted(done.stderr.split("\n")) == ["", "from C", "from Python", "from a child"]
