"""The checker of CustomResourceDefinitions finds what an API server finds, and nothing else."""

import pytest

from tests.k8s.crd_schema import CrdSchema, schemas_of
from tests.k8s.folders import built_objects, kuberay_definitions, of_kind

TEXT = {"type": "string"}


def check(schema, value, old=None):
    return CrdSchema(schema).check(value, old)


def thing(**properties):
    return {"type": "object", "properties": properties}


@pytest.mark.parametrize(
    ("schema", "value", "found"),
    [
        ({"type": "integer"}, True, "must be of type integer"),
        ({"type": "integer"}, 1.5, "must be of type integer"),
        ({"type": "integer", "format": "int32"}, 2**31, "is not between"),
        ({"type": "number", "minimum": 2}, 1, "is not between"),
        ({"type": "boolean"}, 1, "must be of type boolean"),
        ({"x-kubernetes-int-or-string": True}, [], "integer or a string"),
        ({"x-kubernetes-int-or-string": True}, True, "integer or a string"),
        ({"type": "string", "enum": ["a"]}, "b", "must be one of"),
        ({"type": "string", "pattern": "^a+$"}, "ab", "does not match"),
        ({"type": "string", "maxLength": 2}, "abc", "3 characters"),
        ({"type": "array", "items": TEXT, "minItems": 1}, [], "0 items"),
        ({"type": "array", "items": TEXT}, ["a", 1], "must be of type string"),
        ({"type": "object", "additionalProperties": TEXT}, {"a": 1}, "must be of type string"),
    ],
)
def test_a_wrong_value_is_an_error(schema, value, found):
    _, findings = check(thing(field=schema), {"field": value})
    ((path, text),) = findings.errors
    assert path.startswith("field")
    assert found in text


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "integer"}, 1.0),
        ({"type": "number"}, 1),
        ({"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, TEXT]}, "50%"),
        ({"type": "object", "additionalProperties": True}, {"anything": {"at": "all"}}),
        ({"type": "object", "x-kubernetes-preserve-unknown-fields": True}, {"anything": 1}),
    ],
)
def test_a_right_value_is_none(schema, value):
    stored, findings = check(thing(field=schema), {"field": value})
    assert not findings.errors
    assert not findings.unknown
    assert stored == {"field": value}


def test_unknown_fields_are_named_and_left_out_but_not_in_metadata():
    stored, findings = check(
        thing(spec=thing(known=TEXT)),
        {"kind": "K", "metadata": {"name": "x", "labels": {}}, "spec": {"known": "a", "konwn": "b"}},
    )
    assert findings.unknown == ["spec.konwn"]
    assert stored == {"kind": "K", "metadata": {"name": "x", "labels": {}}, "spec": {"known": "a"}}


def test_a_null_of_a_field_that_may_not_be_null_counts_as_absent():
    schema = thing(a=TEXT, b=TEXT | {"default": "x"}, c=TEXT | {"nullable": True}) | {"required": ["a", "b"]}
    stored, findings = check(schema, {"a": None, "b": None, "c": None})
    assert findings.errors == [("a", "Required value")]
    assert stored == {"b": "x", "c": None}


def test_what_is_missing_and_has_a_default_is_filled_in_all_the_way_down():
    inner = thing(size={"type": "integer", "default": 3}) | {"default": {}, "required": ["size"]}
    stored, findings = check(thing(inner=inner), {})
    assert not findings.errors
    assert stored == {"inner": {"size": 3}}


def test_items_of_a_map_have_keys_of_their_own():
    schema = thing(ports={"type": "array", "items": thing(name=TEXT), "x-kubernetes-list-map-keys": ["name"]})
    assert not check(schema, {"ports": [{"name": "a"}, {"name": "b"}]})[1].errors
    assert check(schema, {"ports": [{"name": "a"}, {"name": "a"}]})[1].errors


def test_rules_hold_for_values_and_for_changes():
    field = TEXT | {
        "x-kubernetes-validations": [
            {"rule": "self in ['a', 'b']", "message": "a or b"},
            {"rule": "self == oldSelf", "message": "cannot be changed"},
        ]
    }
    schema = thing(field=field)
    assert not check(schema, {"field": "a"})[1].errors
    assert check(schema, {"field": "c"})[1].errors == [("field", "a or b")]
    assert check(schema, {"field": "b"}, {"field": "a"})[1].errors == [("field", "cannot be changed")]
    assert not check(schema, {"field": "a"}, {"field": "a"})[1].errors


@pytest.fixture(scope="module")
def kuberay():
    return {
        kind: schema
        for definition in kuberay_definitions()
        for (version, kind), schema in schemas_of(definition).items()
        if version == "ray.io/v1"
    }


def test_rules_of_kuberay_are_asked(kuberay):
    (cluster,) = of_kind(built_objects("base"), "RayCluster")
    (job,) = of_kind(built_objects("base"), "RayJob")
    other = {**cluster, "spec": {**cluster["spec"], "managedBy": "somebody"}}
    assert "managedBy" in kuberay["RayCluster"].check(other)[1].errors[0][1]

    embedded = {**cluster["spec"]["gcsFaultToleranceOptions"], "backend": "rocksdb"}
    changed = {**cluster, "spec": {**cluster["spec"], "gcsFaultToleranceOptions": embedded}}
    assert not kuberay["RayCluster"].check(changed)[1].errors
    assert kuberay["RayCluster"].check(changed, cluster)[1].errors

    both = {
        "onSuccess": {"policy": "DeleteSelf"},
        "deletionRules": [{"policy": "DeleteSelf", "condition": {"jobStatus": "SUCCEEDED", "ttlSeconds": 0}}],
    }
    mixed = {**job, "spec": {**job["spec"], "deletionStrategy": both}}
    assert kuberay["RayJob"].check(mixed)[1].errors
