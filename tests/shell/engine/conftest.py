"""A simulated engine on a port, for what sends requests to one."""

from collections.abc import AsyncIterator

import pytest

from cluster.config.pools import SimulatedEngine
from cluster.entities.pool import Role
from deployments.engine.simulated import SimulatedApp
from deployments.http_port import HttpPort


@pytest.fixture
async def url() -> AsyncIterator[str]:
    config = SimulatedEngine(prefill_tokens_per_s=1e6, step_base_s=0.002, step_per_sequence_s=0)
    port = HttpPort(SimulatedApp(config, model="sim", role=Role.COMBINED).app, host="127.0.0.1")
    await port.start()
    yield port.url
    await port.stop(grace_s=0.2)
