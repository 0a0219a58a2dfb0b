"""What names mean, and when it is certain which weights answer."""

import pytest
import yaml

from cluster.config import parse_config
from cluster.entities.adapters import AdapterCard, AdapterCatalogue, AdapterResidency, AdapterTier
from cluster.entities.pool import ReplicaPhase, Role
from deployments.messages import PublishedAdapters
from deployments.router.adapters.names import AdapterNames
from deployments.router.wire.errors import ApiError
from deployments.router.wire.requests import AskedAdapter
from tests.replica_reports import replica_report

CONFIG = """
models: {m: {source: x, aliases: [first]}, n: {source: x}}
pools: {m: {model: m, adapters: {slots: 2}}, n: {model: n}}
adapters: {catalogue: {law: {base_model: m, source: s}, code: {base_model: m, source: s}}}
routing: {auto: {enabled: false}}
"""


def names(**changes):
    return AdapterNames(parse_config(yaml.safe_dump(yaml.safe_load(CONFIG) | changes)))


def report(name="a", *, phase=ReplicaPhase.READY, **shas):
    adapters = tuple(AdapterResidency(name=n, sha256=sha, tier=AdapterTier.DISK) for n, sha in shas.items())
    return replica_report(name, role=Role.COMBINED, model="m", phase=phase, adapters=adapters)


def published(version, **shas):
    cards = tuple(AdapterCard(name=n, base_model="m", source="s", sha256=s) for n, s in shas.items())
    return PublishedAdapters(at_s=0.0, catalogue=AdapterCatalogue(version=version, adapters=cards))


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("m:law", ("m", "law")),
        ("first:code", ("m", "code")),
        ("law", ("m", "law")),
        ("m:auto", ("m", "")),
        ("first:auto", ("m", "")),
        ("auto", ("m", "")),
        ("auto:quality", ("m", "")),
        ("n:law", None),
        ("poetry", None),
        ("x:law", None),
        ("", None),
        (":", None),
    ],
)
def test_what_a_name_means(name, found):
    assert names().asked(name) == (None if found is None else AskedAdapter(*found))


@pytest.mark.parametrize("name", ["m:poetry", "first:poetry", "m:", "m:law:law", "m:Law"])
def test_an_adapter_that_is_not_there(name):
    if name == "m:law:law":
        assert names().asked(name) is None
        return
    with pytest.raises(ApiError) as error:
        names().asked(name)
    assert error.value.status == 404
    assert "m:code, m:law" in error.value.message


def test_where_models_are_chosen_auto_is_theirs():
    found = names(routing={"auto": {"enabled": True}})
    assert found.asked("auto") is None
    assert found.asked("m:auto") == AskedAdapter("m", "")


def test_where_several_models_have_adapters_auto_alone_means_none_of_them():
    pools = {"m": {"model": "m", "adapters": {"slots": 2}}, "n": {"model": "n", "adapters": {"slots": 2}}}
    assert names(pools=pools).asked("auto") is None


def test_the_newest_catalogue_counts_and_stays():
    found = names()
    found.apply(published(5, sql="1" * 64), [])
    assert found.asked("m:sql") == AskedAdapter("m", "sql")
    found.apply(published(4, old="2" * 64), [])
    found.apply(None, [])
    assert found.asked("m:sql") == AskedAdapter("m", "sql")
    found.take(AdapterCatalogue(version=6))
    with pytest.raises(ApiError):
        found.asked("m:sql")


def test_weights_are_unknown_until_somebody_has_seen_them():
    found = names()
    assert found.weights("m", "law") is None
    found.apply(None, [report(law="a" * 64)])
    assert found.weights("m", "law") is not None
    assert found.weights("m", "") is None, "of the other one nothing is known"
    assert found.card("law").sha256 == "a" * 64


def test_weights_are_uncertain_while_replicas_differ():
    found = names()
    found.apply(published(1, law="a" * 64), [report("a", law="a" * 64), report("b", law="a" * 64)])
    old = found.weights("m", "law")
    found.apply(published(2, law="b" * 64), [report("a", law="b" * 64), report("b", law="a" * 64)])
    assert found.weights("m", "law") is None
    found.apply(None, [report("a", law="b" * 64), report("b", law="b" * 64)])
    new = found.weights("m", "law")
    assert None is not new != old
    # One that is leaving answers nobody new.
    leaving = report("b", phase=ReplicaPhase.DRAINING, law="a" * 64)
    found.apply(None, [report("a", law="b" * 64), leaving])
    assert found.weights("m", "law") == new


def test_what_is_left_open_depends_on_all_weights():
    found = names()
    found.apply(published(1, law="a" * 64, code="c" * 64), [])
    before = found.weights("m", "")
    found.apply(published(2, law="a" * 64, code="d" * 64), [])
    assert before != found.weights("m", "") is not None


def test_two_legs_need_the_same_weights():
    found = names()
    assert found.same_weights("law", report("a", law="a" * 64), report("b", law="a" * 64))
    assert not found.same_weights("law", report("a", law="a" * 64), report("b", law="b" * 64))
    assert found.same_weights("law", report("a", law="a" * 64), report("b"))
