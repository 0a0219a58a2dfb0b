"""Every manifest fits the schemas of Kubernetes and KubeRay, and broken ones do not."""

import copy
import random

import kubernetes_validate
import pytest

from tests.k8s.folders import built_objects, kuberay_definitions, of_kind
from tests.k8s.ray_kinds import SPECS

KUBERNETES = "1.37"


def pod_templates(entry):
    """Every pod template within an object of Ray, with the path that leads there."""
    spec = entry["spec"]
    if "submitterPodTemplate" in spec:
        yield "submitter", spec["submitterPodTemplate"]
    cluster = spec if entry["kind"] == "RayCluster" else spec.get("rayClusterConfig")
    if cluster:
        yield "head", cluster["headGroupSpec"]["template"]
        yield from ((group["groupName"], group["template"]) for group in cluster["workerGroupSpecs"])


def of_ray(objects):
    return [entry for entry in objects if entry["apiVersion"] == "ray.io/v1"]


def check_pod(template):
    value = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "checked"}, "template": template}
    kubernetes_validate.validate(value, KUBERNETES, strict=True)


def test_kubernetes_kinds_fit_their_published_schemas_strictly(objects):
    plain = [entry for entry in objects if entry not in of_ray(objects)]
    assert len(plain) > 10
    for entry in plain:
        kubernetes_validate.validate(entry, KUBERNETES, strict=True)


def test_ray_kinds_fit_their_definitions(objects, schemas):
    found = of_ray(objects)
    assert {entry["kind"] for entry in found} in ({"RayCluster", "RayJob"}, {"RayService"})
    for entry in found:
        stored, findings = schemas[entry["apiVersion"], entry["kind"]].check(entry)
        assert not findings.errors
        assert not findings.unknown
        # Nothing is left to the server's defaults without our knowing.
        assert stored["spec"].keys() - entry["spec"].keys() <= {"ttlSecondsAfterFinished"}


def test_pod_templates_of_ray_fit_the_schema_of_pods(objects):
    names = [
        name
        for entry in of_ray(objects)
        for name, template in pod_templates(entry)
        if not check_pod(template)
    ]
    assert {"head", "gateway"} <= set(names)
    assert len(names) >= 4


def test_what_is_written_here_of_kuberay_is_what_kuberay_says():
    for definition in kuberay_definitions():
        kind = definition["spec"]["names"]["kind"]
        version = next(entry for entry in definition["spec"]["versions"] if entry["name"] == "v1")
        whole = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
        compare(SPECS[kind], whole, kind)


def compare(own, theirs, path):
    if own.get("x-kubernetes-preserve-unknown-fields"):
        return
    for key in ("type", "format", "enum", "default", "required"):
        assert own.get(key) == theirs.get(key), f"{path}: {key}"
    for name, inner in own.get("properties", {}).items():
        assert name in theirs["properties"], f"{path}.{name}"
        compare(inner, theirs["properties"][name], f"{path}.{name}")
    if "items" in own:
        compare(own["items"], theirs["items"], f"{path}[]")


def places(value, path=()):
    """Every place within an object of Ray that its own schema describes."""
    for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
        if key in {"template", "submitterPodTemplate", "metadata", "labels", "resources", "rayStartParams"}:
            continue
        if key in {"securityContext", "clusterSelector"}:
            continue
        yield (*path, key)
        if isinstance(entry, dict | list):
            yield from places(entry, (*path, key))


def at(value, path):
    for key in path:
        value = value[key]
    return value


def mutated(entry, draw):
    """The object with one defect that a schema must see: an unknown field, a wrong type, or a missing one."""
    broken = copy.deepcopy(entry)
    path = draw.choice(list(places(broken["spec"])))
    parent = at(broken["spec"], path[:-1])
    value = parent[path[-1]]
    if isinstance(parent, dict) and draw.random() < 0.4:
        parent["bogusField"] = 1
        return broken, f"unknown field beside {path}"
    wrong = {str: 7, bool: "yes", int: "seven", dict: ["no"], list: {"no": 1}}[type(value)]
    parent[path[-1]] = wrong
    return broken, f"{path} is {wrong!r}"


@pytest.mark.parametrize("seed", range(60))
def test_a_manifest_with_a_defect_is_rejected(seed, schemas):
    draw = random.Random(seed)
    entry = draw.choice([*of_ray(built_objects("heterogeneous")), *of_ray(built_objects("rayservice"))])
    broken, what = mutated(entry, draw)
    _, findings = schemas["ray.io/v1", entry["kind"]].check(broken)
    assert findings.errors or findings.unknown, what


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("NetworkPolicy", ("spec", "policyTypes"), "Ingress"),
        ("NetworkPolicy", ("spec", "podSelektor"), {}),
        ("Service", ("spec", "ports", 0, "port"), "http"),
        ("PodDisruptionBudget", ("spec", "minAvailable"), {"pods": 1}),
        ("Ingress", ("spec", "rules", 0, "http", "paths", 0, "pathTyp"), "Prefix"),
        ("StatefulSet", ("spec", "replicas"), "one"),
        ("Role", ("rules", 0, "verbs"), "get"),
        ("RoleBinding", ("roleRef", "nome"), "x"),
    ],
)
def test_a_defect_in_a_kind_of_kubernetes_is_rejected(kind, path, value):
    broken = copy.deepcopy(of_kind(built_objects("base"), kind)[0])
    at(broken, path[:-1])[path[-1]] = value
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, KUBERNETES, strict=True)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("containers", 0, "imag"), "x"),
        (("containers", 0, "ports", 0, "containerPort"), "serve"),
        (("tolerations",), {"key": "nvidia.com/gpu"}),
        (("terminationGracePeriodSeconds",), "60s"),
        (("volumes", 0, "persistentVolumeClaim"), "state"),
    ],
)
def test_a_defect_in_a_pod_of_ray_is_rejected(path, value):
    cluster = copy.deepcopy(of_kind(built_objects("base"), "RayCluster")[0])
    template = cluster["spec"]["headGroupSpec"]["template"]
    at(template["spec"], path[:-1])[path[-1]] = value
    with pytest.raises(kubernetes_validate.ValidationError):
        check_pod(template)
