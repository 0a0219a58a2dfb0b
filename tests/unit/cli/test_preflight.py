"""What stands in the way of a start is said in words, with a remedy."""

from pathlib import Path

import pytest

from cluster.config import ConfigError, TidemillConfig, parse_config
from operators.local_cluster.preflight import Facts, problems
from operators.provisioner.pool_check import check_pools

GIB = 1024**3


@pytest.fixture
def config() -> TidemillConfig:
    return parse_config(
        "models: {m: {source: simulated}}\n"
        "pools: {p: {model: m, engine: {kind: simulated}}}\n"
        "local_cluster: {memory_bytes_min: 2147483648}\n"
    )


def _facts(**changes: object) -> Facts:
    return Facts(**{"memory_available_bytes": 8 * GIB, "cores": 2, **changes})


def test_nothing_in_the_way(config: TidemillConfig) -> None:
    assert problems(config, _facts()) == []


def test_a_taken_port_names_its_holder_and_the_field_to_change(config: TidemillConfig) -> None:
    found = problems(config, _facts(ports_taken={8000: "nginx (process 7)", 9101: "another process"}))
    assert found == [
        "port 8000 is taken by nginx (process 7); stop that, or set gateway.port to a free port",
        (
            "port 9101 is taken by another process; stop that, "
            "or set local_cluster.haproxy_metrics_port to a free port"
        ),
    ]


def test_ports_of_haproxy_do_not_matter_without_it(config: TidemillConfig) -> None:
    local = config.local_cluster.model_copy(update={"haproxy": False})
    without = config.model_copy(update={"local_cluster": local})
    assert problems(without, _facts(ports_taken={9101: "x"})) == []


def test_one_port_for_two_purposes(config: TidemillConfig) -> None:
    local = config.local_cluster.model_copy(update={"dashboard_port": 8000})
    (found,) = problems(config.model_copy(update={"local_cluster": local}), _facts())
    assert "gateway.port" in found
    assert "local_cluster.dashboard_port" in found
    assert "both 8000" in found


def test_too_little_memory_says_how_much(config: TidemillConfig) -> None:
    (found,) = problems(config, _facts(memory_available_bytes=GIB))
    assert found.startswith("1.0 GiB of memory are free and 2.0 GiB are needed")


def test_replicas_that_ray_could_never_place(config: TidemillConfig) -> None:
    (found,) = problems(config, _facts(cores=0))
    assert "the replicas need 1.2 cores and Ray would plan with 1" in found
    assert problems(config, _facts(cores=1)) == []


def test_gpus_that_are_not_there_are_missed_before_engines_wait_for_them() -> None:
    text = (
        "models: {m: {source: s}}\n"
        "pools: {p: {model: m, gpu_type: H100, resources: {cpus: 0, gpus: 1}, replicas: {min: 2, max: 4}}}\n"
    )
    (found,) = problems(parse_config(text), _facts(gpus=1))
    assert found == (
        "the replicas need 2 GPUs and this machine has 1; lower pools.*.replicas.min or "
        "pools.*.resources.gpus, or take a configuration for CPUs, such as configs/local.yaml"
    )
    assert problems(parse_config(text), _facts(gpus=2)) == []
    nodes = text + "local_cluster: {simulated_nodes: {h100: {max: 2, cpus: 1, resources: {GPU: 1}}}}\n"
    assert problems(parse_config(nodes), _facts(gpus=0)) == [], "nodes that come bring theirs"


def test_unwritable_folder(config: TidemillConfig) -> None:
    (found,) = problems(config, _facts(unwritable=(Path("/var/x"),)))
    assert found.startswith("/var/x cannot be written to")


def test_a_running_cluster_is_the_only_thing_said(config: TidemillConfig) -> None:
    found = problems(config, _facts(running_pid=42, ports_taken={8000: "us"}, memory_available_bytes=0))
    assert found == ["already running (process 42); `tidemill down` stops it"]


def test_pools_that_no_provisioner_could_plan_with_are_a_wrong_configuration() -> None:
    config = parse_config(
        "models:\n"
        "  m: {source: s, architecture: lama-3.1-8b}\n"
        "  big: {source: b, architecture: llama-3.1-70b}\n"
        "pools: {p: {model: m, gpu_type: H100}, q: {model: big, gpu_type: L4}, r: {model: m, gpu_type: L4}}\n"
    )
    with pytest.raises(ConfigError) as caught:
        check_pools(config, origin="c.yaml")
    assert str(caught.value).splitlines() == [
        "c.yaml:",
        "  models.m: architecture 'lama-3.1-8b' is not in the catalogue; did you mean 'llama-3.1-8b'?",
        (
            "  pools.q: llama-3.1-70b needs 141 GB for its weights and does not fit on 1 x L4 (24 GB); "
            "leave models.big.architecture out if they are quantised, or name more GPUs"
        ),
    ]
