"""What the coordinator keeps: whole or not there, and how the configuration comes into it."""

import numpy as np
import pytest
import yaml

from cluster.config import parse_config
from cluster.entities.adapters import AdapterCard, AdapterCatalogue
from cluster.policy.paging.contributions import Contribution
from deployments.adapter_messages import ContributionReport
from deployments.messages import DemandReport
from operators.pager.catalogue import CatalogueState, with_configuration
from operators.pager.gathering import Gathering
from operators.pager.load import AdapterLoad
from operators.pager.store import CoordinatorStore, Learned

CONFIG = """
models: {m: {source: x}}
pools: {p: {model: m, adapters: {slots: 3}}}
adapters: {catalogue: {law: {base_model: m, source: s}, code: {base_model: m, source: s}}}
"""


def config(**catalogue):
    content = yaml.safe_load(CONFIG)
    for name, entry in catalogue.items():
        if entry is None:
            del content["adapters"]["catalogue"][name]
        else:
            content["adapters"]["catalogue"][name] = {"base_model": "m", "source": "s", **entry}
    return parse_config(yaml.safe_dump(content))


def card(name, **fields):
    return AdapterCard(name=name, base_model="m", source="s", **fields)


def contribution(source="n", adapter="a", version=1, dimension=3):
    rng = np.random.default_rng(version)
    return Contribution(
        source=source,
        adapter=adapter,
        version=version,
        count=float(version),
        response=rng.standard_normal(dimension),
        gram=rng.standard_normal((dimension, dimension)),
    )


@pytest.fixture
def store(tmp_path):
    return CoordinatorStore(tmp_path / "folder", encoder="e", dimension=3)


def catalogue_of(*names, version=1):
    return CatalogueState(
        catalogue=AdapterCatalogue(version=version, adapters=tuple(card(name) for name in names)),
        configured={"law": "d"},
    )


def test_there_is_nothing_at_first(store):
    assert store.load_catalogue() is None
    assert store.load_learned() == Learned()


def test_what_is_written_is_read(store):
    store.save_catalogue(catalogue_of("a", "b"))
    assert store.load_catalogue() == catalogue_of("a", "b")
    store.save_learned(Learned(contributions=(contribution(),), acknowledged={"n": 3}))
    (found,) = store.load_learned().contributions
    np.testing.assert_array_equal(found.gram, contribution().gram)
    assert store.load_learned().acknowledged == {"n": 3}
    store.save_learned(Learned())
    assert store.load_learned().contributions == ()


@pytest.mark.parametrize("harm", [lambda b: b[:-1], lambda _: b"", lambda b: b.replace(b'"a"', b'"b"')])
def test_a_harmed_file_gives_the_one_before(store, tmp_path, harm):
    store.save_catalogue(catalogue_of("a", version=1))
    store.save_catalogue(catalogue_of("a", version=2))
    path = tmp_path / "folder" / "catalogue.json"
    path.write_bytes(harm(path.read_bytes()))
    assert store.load_catalogue() == catalogue_of("a", version=1)
    store.save_catalogue(catalogue_of("a", version=3))
    assert store.load_catalogue() == catalogue_of("a", version=3)


def test_three_are_kept_and_a_half_written_one_does_not_count(store, tmp_path):
    for version in range(1, 6):
        store.save_catalogue(catalogue_of("a", version=version))
    (tmp_path / "folder" / "catalogue.new").write_bytes(b"half")
    assert store.load_catalogue().catalogue.version == 5
    names = sorted(path.name for path in (tmp_path / "folder").iterdir())
    assert names == ["catalogue.1.json", "catalogue.2.json", "catalogue.json", "catalogue.new"]


def test_what_another_encoder_learnt_is_dropped(store, tmp_path):
    store.save_learned(Learned(contributions=(contribution(),)))
    assert CoordinatorStore(tmp_path / "folder", encoder="f", dimension=3).load_learned() == Learned()
    assert CoordinatorStore(tmp_path / "folder", encoder="e", dimension=4).load_learned() == Learned()


def test_a_fresh_catalogue_is_the_configured_one():
    state = with_configuration(None, config())
    assert [card.name for card in state.catalogue.adapters] == ["code", "law"]


def test_changes_of_the_running_cluster_outlive_the_configuration():
    start = with_configuration(None, config())
    cards = (card("sql", sha256="1" * 64), card("law", pinned=True))
    kept = CatalogueState(catalogue=AdapterCatalogue(version=7, adapters=cards), configured=start.configured)
    after = with_configuration(kept, config())
    assert {c.name: c.pinned for c in after.catalogue.adapters} == {"law": True, "sql": False}


def test_what_somebody_edits_in_the_file_counts_again():
    start = with_configuration(None, config())
    cards = (card("law", sha256="1" * 64, pinned=True), card("sql"))
    kept = CatalogueState(catalogue=AdapterCatalogue(version=7, adapters=cards), configured=start.configured)
    after = with_configuration(kept, config(law={"source": "elsewhere"}, new={}, code=None))
    found = {c.name: c for c in after.catalogue.adapters}
    assert found.keys() == {"law", "sql", "new"}
    assert (found["law"].source, found["law"].replaces, found["law"].pinned) == ("elsewhere", "1" * 64, False)


def test_acknowledged_is_what_is_on_the_disk():
    gathering = Gathering(Learned(acknowledged={"n": 2}), contributions_max=100)
    gathering.take(ContributionReport(source="n", version=5, contributions=(contribution(version=5),)))
    assert gathering.acknowledged("n") == 2
    assert gathering.changed
    learned = gathering.to_keep()
    assert gathering.acknowledged("n") == 2
    gathering.kept(learned)
    assert gathering.acknowledged("n") == 5
    assert not gathering.changed


def test_news_go_to_everybody_else_once():
    gathering = Gathering(Learned(), contributions_max=100)
    gathering.take(ContributionReport(source="n1", version=1, contributions=(contribution("n1"),)))
    news = gathering.news_for("replica-2", "n2")
    assert [found.source for found in news] == ["n1"]
    gathering.told("replica-2", news)
    assert gathering.news_for("replica-2", "n2") == ()
    newer = contribution("n1", version=2)
    gathering.take(ContributionReport(source="n1", version=2, contributions=(newer,)))
    assert gathering.news_for("replica-2", "n2") == (newer,)
    gathering.told("replica-1", gathering.news_for("replica-1", "n1"))
    gathering.take(ContributionReport(source="n1", version=3, contributions=(contribution("n1", version=3),)))
    assert gathering.news_for("replica-1", "n1") == (), "it knows what it has seen itself"


def test_a_replica_that_is_new_hears_even_of_itself():
    gathering = Gathering(Learned(contributions=(contribution("n1"),)), contributions_max=100)
    assert len(gathering.news_for("replica-1", "n1")) == 1


def test_beyond_the_bound_the_longest_silent_node_is_forgotten():
    gathering = Gathering(Learned(contributions=(contribution("old"),)), contributions_max=3)
    for version, source in enumerate(("n1", "n2", "n1", "n3", "n1"), start=1):
        seen = (contribution(source, version=version),)
        gathering.take(ContributionReport(source=source, version=version, contributions=seen))
    kept = gathering.to_keep()
    assert {found.source for found in kept.contributions} == {"n1", "n2", "n3"}
    gathering.take(ContributionReport(source="n4", version=1, contributions=(contribution("n4"),)))
    kept = gathering.to_keep()
    assert {found.source for found in kept.contributions} == {"n1", "n3", "n4"}
    assert "n2" not in kept.acknowledged, "it would tell everything again"


def test_adapters_that_are_gone_are_forgotten():
    gathering = Gathering(
        Learned(contributions=(contribution(adapter="a"), contribution(adapter="b"))), contributions_max=100
    )
    gathering.keep({"b"})
    assert [found.adapter for found in gathering.to_keep().contributions] == ["b"]


def demand(router="r", **counts):
    return [DemandReport(router_id=router, adapters=counts)]


def test_load_is_what_came_since_and_fades():
    load = AdapterLoad(half_life_s=10.0)
    load.take(demand(law=1000), now_s=0.0)
    load.take(demand(law=1000), now_s=10.0)
    assert load.per_s("law") == 0.0, "what a router counted before is of no known time"
    load.take(demand(law=1100), now_s=20.0)
    assert load.per_s("law") == pytest.approx(5.0)
    load.take(demand(law=1100), now_s=30.0)
    assert load.per_s("law") == pytest.approx(2.5)
    load.take(demand(law=1100), now_s=3000.0)
    assert load.per_s("law") == 0.0


def test_a_router_that_starts_anew_takes_nothing_away():
    load = AdapterLoad(half_life_s=10.0)
    load.take(demand(law=500), now_s=0.0)
    load.take(demand("s", law=3), now_s=10.0)
    assert load.per_s("law") == 0.0
    load.take(demand("s", law=103), now_s=20.0)
    assert load.per_s("law") == pytest.approx(5.0)
