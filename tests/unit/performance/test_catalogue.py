"""The performance catalogue: what is derived, what the configuration says instead, what does not fit."""

import pytest

from cluster.config import parse_config
from cluster.entities.performance import Provenance
from cluster.performance.capacity import Mix, Objective, Work, operating_point, rate_max, request_s
from cluster.performance.hardware import GPUS, gpu_spec
from cluster.performance.profiles import pool_performance

MIX = Mix(
    prompt_tokens=1000,
    uncached_tokens=1000,
    uncached_tokens_squared=2e6,
    output_tokens=200,
    context_tokens=1150,
)
OBJECTIVE = Objective(ttft_s=2.0, tpot_s=0.1, attainment=0.95)


def _performance(pool, model="architecture: llama-3.1-8b"):
    config = parse_config(f"models: {{m: {{source: s, {model}}}}}\npools: {{p: {{model: m, {pool}}}}}")
    return pool_performance(config.pools["p"], config.models["m"])


def test_every_gpu_is_found_by_its_name_and_common_ones_by_short_names():
    assert all(gpu_spec(name.lower()) is gpu for name, gpu in GPUS.items())
    assert gpu_spec("a100").name == "A100-SXM4-80GB"
    assert gpu_spec("nonesuch") is None


def test_a_better_gpu_is_faster_and_carries_more():
    h100, l4 = _performance("gpu_type: H100"), _performance("gpu_type: L4")
    assert h100.step_base_s < l4.step_base_s
    assert rate_max(h100, MIX, OBJECTIVE) > 5 * rate_max(l4, MIX, OBJECTIVE)
    assert h100.provenance is Provenance.FITTED
    assert l4.provenance is Provenance.DERIVED
    assert all(h100.sources)


def test_a_measured_point_of_h100_is_met():
    """ML.ENERGY v3: Llama-3.1-8B on one H100 at a batch of about 64 gives 12 to 18 ms per token."""
    h100 = _performance("gpu_type: H100")
    step_s = h100.step_base_s + 64 * (h100.step_per_sequence_s + 500 * h100.step_per_context_token_s)
    assert 0.008 < step_s < 0.018


def test_weights_and_cache_are_split_over_the_gpus():
    four = _performance("gpu_type: H100, gpus_per_replica: 4", "architecture: llama-3.1-70b")
    eight = _performance("gpu_type: H100, gpus_per_replica: 8", "architecture: llama-3.1-70b")
    assert eight.kv_tokens_max > 2 * four.kv_tokens_max
    assert eight.price_usd_per_h == 2 * four.price_usd_per_h
    assert eight.power.idle_w == 2 * four.power.idle_w


def test_a_model_that_does_not_fit_is_refused_in_numbers():
    with pytest.raises(ValueError, match=r"needs 141 GB .* 1 x L4 \(24 GB\)"):
        _performance("gpu_type: L4", "architecture: llama-3.1-70b")


def test_an_unknown_architecture_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'gpt-9' is not in the catalogue, which has: .*llama-3.1-8b"):
        _performance("gpu_type: H100", "architecture: gpt-9")


def test_what_nobody_knows_is_assumed_and_says_so():
    assert _performance("gpu_type: cpu", "").provenance is Provenance.ASSUMED
    found = _performance("gpu_type: H100", "")
    assert found.provenance is Provenance.ASSUMED
    assert any("assumed" in source for source in found.sources)


def test_the_configuration_and_engine_arguments_win():
    found = _performance(
        "gpu_type: H100, "
        "engine: {kind: vllm, args: {max_num_seqs: 7, max_num_batched_tokens: 999, block_size: 32}}, "
        "performance: {step_base_s: 0.5, power: {idle_w: 11}}"
    )
    assert (found.sequences_max, found.batch_tokens_max, found.kv_block_tokens) == (7, 999, 32)
    assert (found.step_base_s, found.power.idle_w) == (0.5, 11)
    assert found.kv_tokens_max % 32 == 0
    assert found.provenance is Provenance.CONFIGURED


def test_a_simulated_engine_is_as_fast_as_it_is_told():
    found = _performance(
        "gpu_type: L4, engine: {kind: simulated, step_base_s: 0.03, prefill_tokens_per_s: 500, start_s: 9}",
        "",
    )
    assert (found.step_base_s, found.prefill_token_s, found.start_s) == (0.03, 0.002, 9)
    assert found.power.idle_w == 18.0, "a quarter of an L4's 72 W"


def test_load_slows_and_warms_a_replica():
    h100 = _performance("gpu_type: H100")
    points = [operating_point(h100, MIX, rate) for rate in (1, 5, 10, 15)]
    for field in ("utilisation", "batch", "tpot_s", "ttft_s", "power_w"):
        values = [getattr(point, field) for point in points]
        assert values == sorted(values)


def test_the_largest_rate_is_within_and_a_little_more_is_not():
    h100 = _performance("gpu_type: H100")
    for work in Work:
        rate = rate_max(h100, MIX, OBJECTIVE, replicas=4, work=work)
        assert rate * request_s(h100, MIX, work) < 1.0
    strict = Objective(ttft_s=0.2, tpot_s=0.02, attainment=0.95)
    assert rate_max(h100, MIX, strict) < rate_max(h100, MIX, OBJECTIVE)
    impossible = Objective(ttft_s=1e-4, tpot_s=0.1, attainment=0.95)
    assert rate_max(h100, MIX, impossible) == 0.0


def test_more_replicas_wait_less():
    h100 = _performance("gpu_type: H100")
    one = operating_point(h100, MIX, 12.0, replicas=1).ttft_s
    assert operating_point(h100, MIX, 12.0, replicas=16).ttft_s < one


@pytest.mark.parametrize(("gpu", "like"), [("H100", "llama-3.1-8b"), ("T4", "qwen3-0.6b")])
def test_a_model_that_nobody_knows_is_taken_for_one_that_fits(gpu, like):
    found = _performance(f"gpu_type: {gpu}", "aliases: [auto]")
    assert found.provenance is Provenance.ASSUMED
    assert f"a model like {like}" in found.sources[-1]
