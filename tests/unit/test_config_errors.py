"""A configuration error names the field, the value found and what would be right."""

import pytest

from cluster.config import ConfigError, load_config, parse_config

GOOD = """
models: {small: {source: simulated, aliases: [auto]}}
pools: {only: {model: small, engine: {kind: simulated}}}
"""


def message(text):
    with pytest.raises(ConfigError) as caught:
        parse_config(text, origin="cluster.yaml")
    return str(caught.value)


def test_a_small_configuration_is_enough():
    config = parse_config(GOOD)
    assert config.default_model == "small"
    assert config.model_for("auto") == "small"
    assert config.model_for("other") is None


def test_an_unknown_field_is_named_with_the_one_probably_meant():
    found = message(GOOD + "gateway: {prot: 8001}\n")
    assert "cluster.yaml" in found
    assert "gateway.prot: unknown field; did you mean 'port'?" in found


def test_an_unknown_field_deep_in_a_pool_is_found_too():
    found = message(GOOD.replace("kind: simulated", "kind: simulated, prefil_tokens_per_s: 5"))
    assert (
        "pools.only.engine.prefil_tokens_per_s: unknown field; did you mean 'prefill_tokens_per_s'?" in found
    )


def test_an_unknown_field_like_no_other_lists_what_is_known():
    assert "gateway.xyzzy: unknown field; known here: admin_key_env, " in message(
        GOOD + "gateway: {xyzzy: 1}\n"
    )


def test_a_key_that_stands_twice_is_an_error_with_its_line():
    found = message(GOOD + "gateway: {port: 1}\ngateway: {port: 2}\n")
    assert "key 'gateway' stands twice" in found
    assert "line 5" in found


def test_a_pool_of_an_unknown_model_lists_the_known_ones():
    found = message(GOOD.replace("model: small", "model: smal"))
    assert "pools.only.model: no model 'smal'; models has: small" in found


@pytest.mark.parametrize("port", [0, 65536, 70000])
def test_a_port_out_of_range_shows_the_value_and_the_bound(port):
    found = message(GOOD + f"gateway: {{port: {port}}}\n")
    assert "gateway.port" in found
    assert f"(found {port})" in found
    assert "equal to" in found


def test_a_model_that_nothing_answers_for_is_an_error():
    found = message(GOOD.replace("model: small,", "model: small, role: prefill,"))
    assert "models.small: no decode or combined pool serves it" in found


def test_a_name_used_twice_is_an_error():
    text = GOOD.replace("aliases: [auto]}", "aliases: [auto]}, auto: {source: simulated}")
    text = text.replace("pools: {", "pools: {other: {model: auto, engine: {kind: simulated}}, ")
    assert "'auto' already names model 'small'" in message(text)


def test_bounds_in_the_wrong_order_say_what_to_change():
    found = message(GOOD.replace("model: small,", "model: small, replicas: {min: 3, max: 2},"))
    assert "pools.only.replicas: min (3) is above max (2); lower min or raise max" in found


def test_a_missing_field_is_named():
    assert "pools.only.model: missing" in message(GOOD.replace("model: small, ", ""))


@pytest.mark.parametrize(
    ("text", "expected"), [("models: [", "not valid YAML"), ("- a\n", "expected a mapping")]
)
def test_what_is_no_mapping_is_refused(text, expected):
    assert expected in message(text)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.yaml: cannot be read"):
        load_config(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("ports", "words"),
    [
        ("gcs_port: 18710", "local_cluster: gcs_port (18710) lies among the ports that Ray hands out itself"),
        ("dashboard_port: 30500", "dashboard_port (30500) lies among the ports"),
        ("gcs_port: 8265", "dashboard_port is the same port as gcs_port (8265)"),
    ],
)
def test_ports_that_ray_needs_itself_are_refused(ports, words):
    assert words in message(GOOD + f"local_cluster: {{{ports}}}\n")
