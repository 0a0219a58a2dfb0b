"""Mistakes about adapters are found when the configuration is read."""

import pytest

from cluster.config import ConfigError, parse_config

GOOD = """
models: {small: {source: simulated}, other: {source: simulated}}
pools:
  only: {model: small, engine: {kind: simulated}, adapters: {slots: 2, rank_max: 16}}
  others: {model: other, engine: {kind: simulated}}
adapters: {catalogue: {a: {base_model: small, source: /x}}}
"""


def test_a_small_one_is_enough():
    config = parse_config(GOOD)
    assert config.adapter_pools("small")["only"].pins_max == 1
    assert config.adapter_pools("other") == {}


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("base_model: small", "base_model: smal", "adapters.catalogue.a.base_model: no model 'smal'"),
        (
            "base_model: small",
            "base_model: other",
            "no pool of other holds adapters; set pools.NAME.adapters",
        ),
        ("a: {", "auto: {", "adapters.catalogue.auto: the name is one of routing.auto"),
        ("a: {", "'x:y': {", "x:y"),
        ("/x}", "/x, rank_max: 32}", "rank_max: 32 is above pools.only.adapters.rank_max (16)"),
        ("slots: 2", "slots: 2, reserve_slots: 3", "reserve_slots (3) is above slots (2)"),
        ("/x}", "/x, sha256: abc}", "adapters.catalogue.a.sha256"),
        (
            "source: /x}",
            "source: /x, pinned: true}, b: {base_model: small, source: /y, pinned: true}",
            "pools.only.adapters.slots: 2 adapters of small are pinned",
        ),
        (
            "{kind: simulated}, adapters",
            "{kind: vllm, args: {max_loras: 2}}, adapters",
            "engine.args.max_loras: follows from adapters",
        ),
    ],
)
def test_a_mistake_is_named_with_its_place(old, new, says):
    with pytest.raises(ConfigError) as caught:
        parse_config(GOOD.replace(old, new, 1))
    assert says in str(caught.value)
