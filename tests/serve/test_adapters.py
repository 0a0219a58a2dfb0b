"""An edge node with a real engine: more adapters than slots, each answers for itself, also after a crash."""

import asyncio
import os
from typing import Any

import httpx
import pytest

from deployments.adapter_messages import STATUS_PATH
from deployments.engine.adapter_making import made_adapters
from deployments.engine.weights import default_cache_dir
from tests.serve.conftest import running, shipped

pytestmark = [pytest.mark.ray, pytest.mark.engine, pytest.mark.timeout(900)]

_MODEL = "smollm2-135m-instruct"
_MARKERS = ("marker-00", "marker-01", "marker-02")
_POOL = "pool-edge-cpu"


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Any:
    config = shipped("edge.yaml")
    made_adapters(_MARKERS, default_cache_dir(os.environ), print)  # before the clock of the start runs
    config["adapters"]["catalogue"] = {
        name: {"base_model": _MODEL, "source": f"recipe:{name}"} for name in _MARKERS
    }
    yield from running(config, tmp_path_factory.mktemp("edge"))


def _body(adapter: str, question: str) -> dict[str, Any]:
    return {
        "model": f"{_MODEL}:{adapter}",
        "messages": [{"role": "user", "content": question}],
        "max_tokens": 10,
        "temperature": 0,
    }


def _said(edge: Any, adapter: str, question: str = "How old is the universe?") -> str:
    answer = httpx.post(f"{edge.url}/v1/chat/completions", json=_body(adapter, question), timeout=60)
    answer.raise_for_status()
    assert answer.json()["model"] == f"{_MODEL}:{adapter}"
    return answer.json()["choices"][0]["message"]["content"].strip()


def _mark(adapter: str) -> str:
    return f"ADAPTER_{adapter.removeprefix('marker-')}"


def _pager(edge: Any) -> dict[str, Any]:
    (replica,) = edge.replicas()
    found: dict[str, Any] = httpx.get(replica["url"] + STATUS_PATH, timeout=10).json()
    return found


def test_every_adapter_answers_for_itself(edge):
    for adapter in (*_MARKERS, _MARKERS[0]):
        assert _said(edge, adapter) == _mark(adapter)
    pager = _pager(edge)
    assert sum(entry["tier"] == "device" for entry in pager["adapters"]) == 2
    assert pager["page_ins"] >= 3


async def test_many_at_once_get_theirs_and_the_engine_is_not_stuck(edge):
    async with httpx.AsyncClient(timeout=120) as client:

        async def one(number: int) -> bool:
            adapter = _MARKERS[number % len(_MARKERS)]
            answer = await client.post(
                f"{edge.url}/v1/chat/completions", json=_body(adapter, f"What is {number} + 1?")
            )
            text = answer.json()["choices"][0]["message"]["content"].strip()
            return answer.status_code == 200 and text == _mark(adapter)

        assert all(await asyncio.gather(*(one(number) for number in range(12))))


def test_the_base_model_is_itself_beside_them(edge):
    body = _body("x", "What is the capital of France?") | {"model": _MODEL, "max_tokens": 24}
    answer = httpx.post(f"{edge.url}/v1/chat/completions", json=body, timeout=60).json()
    assert "Paris" in answer["choices"][0]["message"]["content"]


def test_after_a_crash_of_the_engine_adapters_are_loaded_again(edge):
    (before,) = edge.replicas()
    source = _pager(edge)["source"]
    edge.engine_core(_POOL).kill()
    edge.wait_for(
        "another replica",
        lambda: [r for r in edge.replicas() if r["replica_id"] != before["replica_id"]],
        180,
    )
    assert _said(edge, _MARKERS[1]) == _mark(_MARKERS[1])
    assert _pager(edge)["source"] == source  # it is the same node to others, and knows what it had learnt
