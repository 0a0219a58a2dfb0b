"""How a pool becomes vLLM's command line, and what is read from vLLM's sums. vLLM itself is not imported."""

import itertools
import json

import pytest
from prometheus_client import CollectorRegistry, Gauge, Histogram

from cluster.config import parse_config
from deployments.engine.vllm import PrefillRate, VllmServer, metric_sums

CONFIG = """
models: {{tide: {{source: x, tool_call_parser: hermes}}}}
pools:
  first:
    model: tide
    role: {role}
    gpu_type: {gpu_type}
    engine: {{kind: vllm, args: {args}, kv_lease_s: 17}}
  other: {{model: tide, role: combined}}
"""


def command_line(*, role="decode", gpu_type="cpu", args="{}", split=True):
    config = parse_config(CONFIG.format(role=role, gpu_type=gpu_type, args=args))
    pool = config.pools["first"]
    server = VllmServer(
        pool.engine, pool=pool, name="tide", model=config.models["tide"], weights="/weights", split=split
    )
    return server.command_line()


def value_of(line, flag):
    return line[line.index(flag) + 1]


@pytest.mark.parametrize("told", [True, False])
def test_the_engine_tells_of_its_prefix_cache_unless_that_is_turned_off(told):
    config = parse_config(
        "models: {tide: {source: x}}\n"
        f"pools: {{p: {{model: tide, engine: {{kind: vllm, kv_events: {str(told).lower()}}}}}}}"
    )
    pool = config.pools["p"]
    server = VllmServer(
        pool.engine, pool=pool, name="tide", model=config.models["tide"], weights="/w", split=False
    )
    line = server.command_line()
    assert ("--kv-events-config" in line) is told
    if told:
        assert json.loads(value_of(line, "--kv-events-config"))["endpoint"].startswith("ipc://")


@pytest.mark.parametrize(("role", "kv_role"), [("prefill", "kv_producer"), ("decode", "kv_consumer")])
def test_a_split_model_hands_its_kv_cache_over(role, kv_role):
    transfer = json.loads(value_of(command_line(role=role), "--kv-transfer-config"))
    assert transfer["kv_role"] == kv_role
    assert transfer["kv_buffer_device"] == "cpu"
    assert transfer["kv_load_failure_policy"] == "recompute"
    assert transfer["kv_connector_extra_config"] == {"kv_lease_duration": 17}


def test_a_model_that_is_not_split_has_no_connector():
    line = command_line(split=False)
    assert "--kv-transfer-config" not in line
    assert value_of(line, "--worker-extension-cls").endswith(".worker_extension.CpuWorkerExtension")


def test_cpu_engines_get_what_cpus_need_and_gpu_engines_do_not():
    on_cpu, on_gpu = command_line(), command_line(gpu_type="H100")
    assert value_of(on_cpu, "--dtype") == "float32"
    assert "--enforce-eager" in on_cpu
    assert value_of(on_cpu, "--worker-extension-cls").endswith(".NixlCpuWorkerExtension")
    assert value_of(on_cpu, "--distributed-executor-backend").endswith(".PatientExecutor")
    for flag in ("--dtype", "--enforce-eager", "--worker-extension-cls", "--distributed-executor-backend"):
        assert flag not in on_gpu
    assert json.loads(value_of(on_gpu, "--kv-transfer-config"))["kv_buffer_device"] == "cuda"


def test_arguments_of_the_pool_win_and_keep_their_form():
    line = command_line(
        args="{dtype: bfloat16, enforce_eager: false, max_model_len: 512, limit: {image: 0}, names: [a, b]}"
    )
    assert value_of(line, "--dtype") == "bfloat16"
    assert "--no-enforce-eager" in line
    assert value_of(line, "--max-model-len") == "512"
    assert json.loads(value_of(line, "--limit")) == {"image": 0}
    names = line.index("--names")
    assert line[names + 1 : names + 3] == ["a", "b"]


def test_tools_are_on_where_a_parser_is_named():
    line = command_line()
    assert "--enable-auto-tool-choice" in line
    assert value_of(line, "--tool-call-parser") == "hermes"


def test_the_prefill_rate_is_that_of_long_prompts():
    rate = PrefillRate()
    assert rate.observe(0, 0, 0.0) is None
    assert rate.observe(400, 1, 2.0) == 200
    assert rate.observe(400, 1, 2.0) == 200
    assert rate.observe(1200, 2, 4.0) == pytest.approx(260)  # three tenths of 400 tokens/s, the rest of 200


def test_health_checks_do_not_count_as_prefills():
    rate = PrefillRate()
    for number in range(1, 50):
        assert rate.observe(number, number, number * 0.25) is None
    assert rate.observe(49 + 500, 50, 49 * 0.25 + 1.0) == 500


def test_sums_and_counts_are_read_from_real_metrics():
    registry = CollectorRegistry()
    running = Gauge("vllm:num_requests_running", "x", ["engine"], registry=registry)
    tokens = Histogram("vllm:request_prefill_kv_computed_tokens", "x", ["engine"], registry=registry)
    seconds = Histogram("vllm:request_prefill_time_seconds", "x", ["engine"], registry=registry)
    for engine in "01":
        running.labels(engine).set(2)
        tokens.labels(engine).observe(300)
        seconds.labels(engine).observe(1.5)
    sums = metric_sums(registry)
    assert sums["vllm:num_requests_running"] == 4
    assert sums["vllm:request_prefill_kv_computed_tokens_sum"] == 600
    assert sums["vllm:request_prefill_kv_computed_tokens_count"] == 2
    assert sums["vllm:request_prefill_time_seconds_sum"] == 3.0
    assert sums["vllm:not_there_yet"] == 0


def line_with(**given):
    """The command line of an engine with settings that are the whole cluster's."""
    config = parse_config(CONFIG.format(role="decode", gpu_type="cpu", args="{}"))
    pool = config.pools["first"]
    server = VllmServer(
        pool.engine,
        pool=pool,
        name="tide",
        model=config.models["tide"],
        weights="/weights",
        split=True,
        **given,
    )
    return server.command_line()


def test_spans_go_where_the_router_s_go_and_nowhere_by_default():
    collector = "http://127.0.0.1:4318/v1/traces"
    assert value_of(line_with(traces_endpoint=collector), "--otlp-traces-endpoint") == collector
    assert "--otlp-traces-endpoint" not in line_with(traces_endpoint="")


def test_the_engine_fetches_media_from_named_hosts_and_by_default_from_nowhere():
    def domains(**given):
        line = line_with(**given)
        place = line.index("--allowed-media-domains") + 1
        return list(itertools.takewhile(lambda word: not word.startswith("--"), line[place:]))

    assert domains() == ["none.invalid"], "no domain at all would be every one"
    assert domains(media_domains=("a.example", "b.example")) == ["a.example", "b.example"]
