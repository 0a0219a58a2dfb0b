"""Cores are claimed by one engine at a time, and free again when it is gone."""

import os
import subprocess
import sys

from deployments.engine.cores import CoreClaim

CORES = len(os.sched_getaffinity(0))


def test_no_core_is_claimed_twice(tmp_path):
    claims = [CoreClaim(1, directory=tmp_path) for _ in range(CORES + 2)]
    claimed = [core for claim in claims for core in claim.cores]
    assert sorted(claimed) == sorted(os.sched_getaffinity(0))
    assert claims[-1].cores == ()


def test_a_released_core_is_free_again(tmp_path):
    first = CoreClaim(CORES, directory=tmp_path)
    assert CoreClaim(1, directory=tmp_path).cores == ()
    first.release()
    assert len(CoreClaim(1, directory=tmp_path).cores) == 1


def test_a_process_that_is_killed_leaves_its_core(tmp_path):
    code = (
        "import os, pathlib, sys; from deployments.engine.cores import CoreClaim; "
        f"claim = CoreClaim({CORES}, directory=pathlib.Path(sys.argv[1])); "
        "print(len(claim.cores), flush=True); os.kill(os.getpid(), 9)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout.strip()) == (-9, str(CORES))
    assert len(CoreClaim(CORES, directory=tmp_path).cores) == CORES
