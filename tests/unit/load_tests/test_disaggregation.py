"""The benchmark of two engines used in three ways: what it configures, and what it sends."""

import pytest
import yaml

from cluster.config import check_config
from cluster.entities.pool import Role
from load_tests import disaggregation
from load_tests.disaggregation import WAYS, Mix, config_of

BASE = yaml.safe_load(disaggregation.CONFIG.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("way", "roles"),
    [
        ("combined", [(Role.COMBINED, 2)]),
        ("always", [(Role.PREFILL, 1), (Role.DECODE, 1)]),
        ("conditional", [(Role.PREFILL, 1), (Role.DECODE, 1)]),
    ],
)
def test_every_way_has_two_equal_engines(way, roles):
    config = check_config(config_of(way, BASE))
    assert [(pool.role, pool.replicas.start) for pool in config.pools.values()] == roles
    assert len({pool.engine.model_dump_json() for pool in config.pools.values()}) == 1
    assert not config.semantic_cache.enabled


def test_only_the_router_s_own_choice_looks_at_lengths():
    always, conditional = (check_config(config_of(way, BASE)).routing.disaggregation for way in WAYS[1:])
    assert always.uncached_tokens_min == 1
    assert conditional.uncached_tokens_min > Mix().chat_prompt_tokens
    assert conditional.uncached_tokens_min < Mix().long_prompt_tokens


def test_equal_seeds_send_the_same_in_every_way():
    mix = Mix(rate_per_s=10, duration_s=60)
    first, again, other = (list(mix.arrivals("m", seed)) for seed in (1, 1, 2))
    assert first == again != other
    kinds = [kind for _, kind, _ in first]
    assert len(first) == pytest.approx(600, rel=0.15)
    assert kinds.count("long") / len(kinds) == pytest.approx(0.25, abs=0.06)
    times = [at_s for at_s, _, _ in first]
    assert times == sorted(times)


def test_an_unknown_way_is_refused(capsys):
    with pytest.raises(SystemExit):
        disaggregation.main(["--ways", "sometimes"])
    assert "there are combined, always, conditional" in capsys.readouterr().err
