"""NVML's real binding against a library with NVML's interface: what a GPU node can do to its meter."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def _header_folder() -> Path | None:
    spec = find_spec("nvidia")
    for folder in spec.submodule_search_locations if spec else ():
        for header in Path(folder).rglob("nvml.h"):
            return header.parent
    return None


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    header, compiler = _header_folder(), shutil.which("gcc") or shutil.which("cc")
    if header is None or compiler is None:
        pytest.skip(
            "no C compiler" if header else "nvidia-nvml-dev is not installed: no header to compile against"
        )
    folder = tmp_path_factory.mktemp("nvml")
    command = [compiler, "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-Wl,-soname,libnvidia-ml.so.1"]
    source = ROOT / "tests" / "native" / "nvml_stand_in.c"
    subprocess.run(
        [*command, f"-I{header}", "-o", str(folder / "libnvidia-ml.so.1"), str(source)],
        check=True,
        timeout=60,
    )
    return folder


@pytest.fixture
def run(library, tmp_path):
    def steps(*steps, library_path=library):
        env = {**os.environ, "LD_LIBRARY_PATH": str(library_path), "NVML_STAND_IN": str(tmp_path / "gpus")}
        done = subprocess.run(
            [sys.executable, "-m", "tests.shell.telemetry.nvml_steps"],
            input=json.dumps(steps),
            env=env,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return steps


def test_the_energy_counter_is_read_and_its_difference_is_the_power(run):
    told = run((0, "GPU-a 300000 5000000 0\n"), (2, "GPU-a 300000 5600000 0\n"))
    assert told[0] == {"readings": {"GPU-a": ["nvml_counter", 0.0, None]}, "errors": {}}
    assert told[1]["readings"] == {"GPU-a": ["nvml_counter", 600.0, 300.0]}


def test_a_counter_that_begins_anew_loses_nothing_that_it_shows(run):
    told = run((0, "GPU-a 0 9000000 0\n"), (1, "GPU-a 0 9100000 0\n"), (2, "GPU-a 0 40000 0\n"))
    assert told[2]["readings"]["GPU-a"][1] == 140.0


def test_without_a_counter_power_is_integrated(run):
    told = run((0, "GPU-a 100000 -1 0\n"), (1, "GPU-a 200000 -1 0\n"), (3, "GPU-a 200000 -1 0\n"))
    assert [step["readings"]["GPU-a"] for step in told] == [
        ["nvml_power", 0.0, None],
        ["nvml_power", 150.0, 150.0],
        ["nvml_power", 550.0, 200.0],
    ]


def test_a_lost_gpu_leaves_the_others_alone_and_comes_back(run):
    healthy = "GPU-a 0 {a} 0\nGPU-b 0 {b} {status}\n"
    told = run(
        (0, healthy.format(a=0, b=0, status=0)),
        (1, healthy.format(a=1000, b=0, status=15)),
        (2, healthy.format(a=2000, b=50000, status=0)),
        (3, healthy.format(a=3000, b=51000, status=0)),
    )
    assert told[1]["errors"] == {"GPU-b": "gpu_is_lost"}
    assert set(told[1]["readings"]) == {"GPU-a"}
    assert told[3]["errors"] == {}
    assert told[3]["readings"]["GPU-a"][1] == 3.0
    assert told[3]["readings"]["GPU-b"][1] == 1.0, "what it used while it was away is not guessed"


def test_a_gpu_that_vanishes_from_the_list_is_told(run):
    told = run((0, "GPU-a 0 0 0\nGPU-b 0 0 0\n"), (1, "GPU-a 0 1000 0\n"))
    assert told[1]["errors"] == {"GPU-b": "gpu_is_lost"}
    assert told[1]["readings"]["GPU-a"][1] == 1.0


@pytest.mark.parametrize(("status", "word"), [(4, "no_permission"), (999, "other")])
def test_a_refusal_to_initialise_is_told_and_tried_again(run, status, word):
    told = run((0, f"init {status}\n"), (5, "GPU-a 0 0 0\n"), (11, "GPU-a 0 0 0\n"), (12, "GPU-a 0 7000 0\n"))
    assert told[0] == {"readings": {}, "errors": {"nvml": word}}
    assert told[1]["errors"] == {"nvml": word}, "not before the pause is over"
    assert told[3] == {"readings": {"GPU-a": ["nvml_counter", 7.0, 7.0]}, "errors": {}}


def test_a_reading_that_is_not_permitted_is_told(run):
    told = run((0, "GPU-a 0 0 0\n"), (1, "GPU-a 0 0 4\n"))
    assert told[1] == {"readings": {}, "errors": {"GPU-a": "no_permission"}}


def test_a_driver_that_is_reloaded_is_found_again(run):
    told = run((0, "GPU-a 0 1000 0\n"), (1, None), (12, "GPU-a 0 0 0\n"), (13, "GPU-a 0 4000 0\n"))
    assert told[1]["errors"]["nvml"] == "no_driver"
    assert told[1]["readings"] == {}
    assert told[3]["readings"]["GPU-a"][1] == 4.0
    assert told[3]["errors"] == {}


def test_a_node_without_a_driver_says_so(run):
    assert run((0, None))[0]["errors"] == {"nvml": "no_driver"}


def test_a_node_without_the_library_says_so(run, tmp_path):
    if list(Path("/").glob("usr/lib/*/libnvidia-ml.so.1")):
        pytest.skip("this machine has NVIDIA's library")
    assert run((0, None), library_path=tmp_path)[0]["errors"] == {"nvml": "no_library"}
