"""A small configuration, and requests parsed against it."""

import orjson
import pytest

from cluster.config import parse_config
from cluster.entities.workload import Surface
from deployments.router.wire.requests import parse

_CONFIG = """
models:
  sim: {source: simulated, aliases: [auto, gpt-x]}
  other: {source: simulated}
pools:
  decode: {model: sim, role: decode, engine: {kind: simulated}}
  spare: {model: other, engine: {kind: simulated}}
gateway: {json_depth_max: 16}
"""


@pytest.fixture(scope="session")
def config():
    return parse_config(_CONFIG)


@pytest.fixture
def parsed(config):
    """Parses a body given as a dict or as bytes."""

    def parse_body(surface: Surface, body):
        raw = body if isinstance(body, bytes) else orjson.dumps(body)
        return parse(raw, surface, config)

    return parse_body
