"""The fit of the performance model finds the efficiencies that measured points were made with."""

from dataclasses import replace

import pytest

from cluster.performance.architectures import model_spec
from cluster.performance.hardware import gpu_spec
from cluster.performance.power import decode_w
from cluster.performance.roofline import EFFICIENCIES, decode_step_s, efficiency_of, power_curve
from load_tests.performance_fit import Point, fit, read

GPU = gpu_spec("H100")
TRUE = replace(
    EFFICIENCIES[GPU.name],
    bandwidth=0.7,
    layer_s=3e-5,
    sequence_s=2e-5,
    decode_flops=0.5,
    power_range=0.6,
    power_steepness=0.5,
    power_midpoint=3.0,
    power_midpoint_per_log2_gpus=0.5,
)
COLUMNS = (
    "source,task,gpu,model,num_gpus,max_num_seqs,avg_batch,tpot_or_median_itl_ms,out_tok_s,avg_out,w_per_gpu"
)


def _point(model, gpus, sequences, context_tokens):
    spec = model_spec(model)
    return Point(
        gpu=GPU,
        model=spec,
        gpus=gpus,
        sequences=sequences,
        context_tokens=context_tokens,
        itl_s=decode_step_s(GPU, spec, gpus, sequences, context_tokens, TRUE),
        gpu_w=decode_w(power_curve(GPU, gpus, TRUE), sequences) / gpus,
    )


POINTS = [
    _point(model, gpus, sequences, context)
    for model, gpus in (("llama-3.1-8b", 1), ("qwen3-14b", 1), ("llama-3.1-70b", 4))
    for sequences in (1, 8, 64, 512)
    for context in (200, 4000)
]


def test_the_efficiencies_are_found():
    found = fit(POINTS, EFFICIENCIES[GPU.name])
    for name in ("bandwidth", "layer_s", "sequence_s", "decode_flops", "power_range", "power_midpoint"):
        assert getattr(found, name) == pytest.approx(getattr(TRUE, name), rel=0.05), name
    assert max(abs(p.itl_error(found)) for p in POINTS) < 0.01
    assert max(abs(p.power_error(found)) for p in POINTS) < 0.01


def test_one_step_that_a_host_held_up_does_not_bend_the_fit():
    slow = replace(POINTS[0], itl_s=5.0 * POINTS[0].itl_s)
    found = fit([slow, *POINTS[1:]], EFFICIENCIES[GPU.name])
    assert max(abs(p.itl_error(found)) for p in POINTS[1:]) < 0.05


def test_power_never_passes_the_limit():
    found = fit(POINTS, replace(EFFICIENCIES[GPU.name], idle_share=0.5))
    assert found.idle_share + found.power_range <= 1.0 + 1e-9


def test_only_dense_models_of_the_right_source_are_read():
    v3 = "ml-energy/leaderboard@0 (v3),t,H100-SXM5-80GB"
    lines = [
        COLUMNS,
        f"{v3},Qwen/Qwen3-8B,1,8,7.97,8.2,961.7,646.6,427.0",
        f"{v3},openai/gpt-oss-20b,1,8,7.97,8.2,961.7,646.6,427.0",
        "ml-energy/leaderboard-v2@c,t,H100-SXM5-80GB,Qwen/Qwen3-8B,1,8,7.97,8.2,961.7,646.6,427.0",
    ]
    (point,) = read(lines, prompt_tokens=100.0)
    assert point.context_tokens == pytest.approx(100.0 + 646.6 / 2)
    assert (point.model.name, point.itl_s) == ("qwen3-8b", pytest.approx(0.0082))


def test_idle_power_is_that_of_the_gpu_type():
    shares = {name: efficiency_of(gpu_spec(name)).idle_share for name in ("H100", "H200", "B200", "L4")}
    assert shares["H200"] < shares["H100"] < shares["B200"] == shares["L4"]
    for name in shares:
        fitted = efficiency_of(gpu_spec(name))
        assert fitted.idle_share + fitted.power_range <= 1.0 + 1e-9, "no GPU passes its limit"
