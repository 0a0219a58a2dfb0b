"""The whole measurement on a CPU and without NVML: every case is made and on disk."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
def test_the_program_can_be_tried_without_a_gpu(tmp_path):
    pytest.importorskip("torch")
    out = tmp_path / "gpu.json"
    command = [sys.executable, "-m", "operators.telemetry.characterise", "--tiny", "--out", str(out)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "LD_LIBRARY_PATH": ""}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text("utf-8"))
    assert len(result["decode"]) + len(result["skipped"]) == 15
    assert len(result["prefill"]) == 3
    assert all(case["step_s"] > 0 for case in result["decode"] + result["prefill"])
    assert result["command"].endswith("--out gpu.json --tiny"), "no folder of this machine"
