"""The real kubectl applies, compares, waits for and deletes the manifests, against an API server's double."""

import copy
import json
import os

import pytest
import yaml

from tests.k8s import ray_kinds
from tests.k8s.folders import CRDS_VARIABLE, FOLDERS, built_objects, kuberay_definitions, of_kind

CREATED = "serverside-applied"


def definitions():
    return kuberay_definitions() if CRDS_VARIABLE in os.environ else ray_kinds.definitions()


@pytest.fixture
def cluster(kubectl):
    """A double that knows Ray's kinds, as after installing the KubeRay operator's definitions."""
    double = kubectl.double
    kind = double.resource("apiextensions.k8s.io/v1", "customresourcedefinitions")
    for entry in definitions():
        double.create(kind, None, copy.deepcopy(entry), strict=True, dry_run=False)
    return kubectl


def apply(kubectl, target, *further, check=True):
    return kubectl("apply", "--server-side", "-k", target, *further, check=check)


def versions_of(kubectl):
    """Every stored object's version; the double moves it when an object changes and only then."""
    double = kubectl.double
    return {
        (entry["kind"], entry["metadata"]["name"]): entry["metadata"]["resourceVersion"]
        for resource in double.resources
        if resource.kind != "CustomResourceDefinition"
        for entry in double.list(resource)
    }


@pytest.mark.parametrize("folder", sorted(FOLDERS.keys() - {"base"}))
def test_every_overlay_is_applied_whole(cluster, folder):
    done = apply(cluster, FOLDERS[folder])
    assert done.stdout.count(CREATED) == len(built_objects(folder)) == len(versions_of(cluster))


@pytest.mark.slow
def test_a_cluster_is_applied_again_compared_shown_and_deleted(kubectl, tmp_path):
    cluster = kubectl
    for entry in definitions():
        path = tmp_path / f"{entry['metadata']['name']}.json"
        path.write_text(json.dumps(entry), encoding="utf-8")
        cluster("apply", "--server-side", "-f", path)
    cluster("wait", "--for=condition=Established", "--timeout=10s", "crd/rayclusters.ray.io")

    target = FOLDERS["base"]
    apply(cluster, target)
    first = versions_of(cluster)

    apply(cluster, target)
    assert versions_of(cluster) == first
    same = cluster("diff", "--server-side", "-k", target, check=False)
    assert (same.returncode, same.stdout) == (0, "")

    shown = json.loads(cluster("get", "raycluster", "tidemill", "-n", "tidemill", "-o", "json").stdout)
    assert shown["metadata"]["generation"] == 1
    listed = cluster("get", "networkpolicy,sa,pvc", "-n", "tidemill", "-o", "name").stdout.split()
    assert "networkpolicy.networking.k8s.io/tidemill-ray" in listed
    assert "serviceaccount/tidemill-head" in listed

    # The namespace goes first and takes the rest along.
    cluster("delete", "-k", target, "--ignore-not-found", "--timeout=20s")
    assert versions_of(cluster) == {}


@pytest.mark.slow
def test_going_from_one_configuration_to_another_shows_first_and_changes_what_differs(cluster):
    apply(cluster, FOLDERS["base"])
    before = versions_of(cluster)
    shown = cluster("diff", "--server-side", "-k", FOLDERS["energy"], check=False)
    assert shown.returncode == 1, shown.stderr
    assert "decode-h100" in shown.stdout
    assert versions_of(cluster) == before

    apply(cluster, FOLDERS["energy"])
    after = versions_of(cluster)
    changed = {key for key in before if after[key] != before[key]}
    assert changed == {("RayCluster", "tidemill")}
    added = {kind for kind, _ in after.keys() - before.keys()}
    # A changed configuration is a new job with its own copy; objects of the old one stay.
    assert added == {"ConfigMap", "RayJob"}
    groups = json.loads(cluster("get", "raycluster", "tidemill", "-n", "tidemill", "-o", "json").stdout)
    assert [g["groupName"] for g in groups["spec"]["workerGroupSpecs"]] == ["gateway", "h100", "l4"]


def written(folder, *objects):
    folder.mkdir(exist_ok=True)
    path = folder / "objects.yaml"
    path.write_text(yaml.safe_dump_all(objects), encoding="utf-8")
    return path


def only(tmp_path, kind):
    """A file with one object of the base, and the namespace it is in."""
    (found, *_) = of_kind(built_objects("base"), kind)
    return written(tmp_path, built_objects("base")[0], found), copy.deepcopy(found)


def test_another_hand_is_not_overwritten_unasked(cluster, tmp_path):
    """What somebody set by hand is a conflict for the next apply, with the field's name."""
    ours, budget = only(tmp_path / "ours", "PodDisruptionBudget")
    cluster("apply", "--server-side", "-f", ours)
    budget["spec"]["minAvailable"] = 7
    theirs = written(tmp_path / "theirs", budget)
    cluster("apply", "--server-side", "--field-manager=somebody", "--force-conflicts", "-f", theirs)
    refused = cluster("apply", "--server-side", "-f", ours, check=False)
    assert refused.returncode == 1
    assert ".spec.minAvailable" in refused.stderr
    cluster("apply", "--server-side", "--force-conflicts", "-f", ours)
    name = budget["metadata"]["name"]
    found = cluster("get", "pdb", name, "-n", "tidemill", "-o", "jsonpath={.spec.minAvailable}").stdout
    assert found == "1"


def test_what_the_autoscaler_has_written_is_a_conflict_that_force_takes_back(cluster, tmp_path):
    """It keeps sizes in the list of groups, which is one field: docs/operations.md says what to type."""
    ours, ray = only(tmp_path / "ours", "RayCluster")
    cluster("apply", "--server-side", "-f", ours)
    sizes = ray["spec"]["workerGroupSpecs"]
    sizes[2]["replicas"] = 5
    patch = json.dumps({"spec": {"workerGroupSpecs": sizes}})
    place = ("raycluster", "tidemill", "-n", "tidemill")
    cluster("patch", *place, "--type=merge", "--field-manager=autoscaler", "-p", patch)
    refused = cluster("apply", "--server-side", "-f", ours, check=False)
    assert refused.returncode == 1
    assert ".spec.workerGroupSpecs" in refused.stderr
    cluster("apply", "--server-side", "--force-conflicts", "-f", ours)
    found = json.loads(cluster("get", *place, "-o", "json").stdout)
    assert found["spec"]["workerGroupSpecs"][2]["replicas"] == 2


@pytest.mark.parametrize(
    ("kind", "path", "value", "said"),
    [
        ("RayCluster", ("spec", "headGroupSpec", "bogusField"), 1, "spec.headGroupSpec.bogusField"),
        ("RayCluster", ("spec", "autoscalerOptions", "version"), "v3", "spec.autoscalerOptions.version"),
        ("RayCluster", ("spec", "enableInTreeAutoscaling"), "yes", "spec.enableInTreeAutoscaling"),
        ("RayJob", ("spec", "backoffLimit"), "none", "spec.backoffLimit"),
        ("NetworkPolicy", ("spec", "podSelektor"), {}, "podSelektor"),
        ("Service", ("spec", "ports"), "http", "spec.ports"),
    ],
)
def test_a_broken_manifest_is_refused_with_the_field(cluster, tmp_path, kind, path, value, said):
    space, *rest = built_objects("base")
    broken = copy.deepcopy(next(entry for entry in rest if entry["kind"] == kind))
    parent = broken
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    cluster("apply", "--server-side", "-f", written(tmp_path, space))
    refused = cluster("apply", "--server-side", "-f", written(tmp_path, broken), check=False)
    assert refused.returncode == 1
    assert said in refused.stderr
    assert [key for key in versions_of(cluster) if key[0] == kind] == []


def test_a_namespace_comes_first_and_takes_everything_along(cluster, tmp_path):
    space, *rest = built_objects("dev")
    assert space["kind"] == "Namespace"
    account = written(tmp_path, next(entry for entry in rest if entry["kind"] == "ServiceAccount"))
    refused = cluster("apply", "--server-side", "-f", account, check=False)
    assert 'namespaces "tidemill" not found' in refused.stderr
    apply(cluster, FOLDERS["dev"])
    cluster("delete", "namespace", "tidemill", "--timeout=20s")
    cluster("wait", "--for=delete", "namespace/tidemill", "--timeout=10s")
    assert versions_of(cluster) == {}
