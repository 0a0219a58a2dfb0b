"""Configuration of callers: nobody is let in by mistake."""

import pytest

from cluster.config import ConfigError, parse_config

BASE = "models: {m: {source: x, aliases: [small]}}\npools: {p: {model: m}}\n"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.com"])
def test_an_open_address_without_keys_is_refused(host):
    with pytest.raises(ConfigError, match=r"tenants\.enabled: true.*gateway\.allow_without_keys: true"):
        parse_config(f"{BASE}gateway: {{host: '{host}'}}\n")
    parse_config(f"{BASE}gateway: {{host: '{host}', allow_without_keys: true}}\n")
    parse_config(f"{BASE}gateway: {{host: '{host}'}}\ntenants: {{enabled: true}}\n")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_is_open(host):
    assert parse_config(f"{BASE}gateway: {{host: '{host}'}}\n").gateway.is_loopback


def test_a_tenants_models_must_be_there():
    with pytest.raises(ConfigError, match=r"tenants\.acme\.models: no model 'large'; known: m, small"):
        parse_config(f"{BASE}tenants: {{tenants: {{acme: {{models: [large]}}}}}}\n")
    parse_config(f"{BASE}tenants: {{tenants: {{acme: {{models: [small, all-minilm-l6-v2]}}}}}}\n")


def test_the_operators_name_is_taken():
    with pytest.raises(ConfigError, match="operator"):
        parse_config(f"{BASE}tenants: {{tenants: {{operator: {{}}}}}}\n")
