"""What is on its way to a replica is counted on every path in, and taken off on every path out.

Two reports of other routers' users: vllm-project/router#179 (a path on which load was never counted sent
everything to one worker until it ran out of memory) and ray-project/ray#61755 (a cache of queue lengths that
was never counted down).
"""

import asyncio

import pytest

MESSAGES = [{"role": "user", "content": "hello"}]
BODIES = {
    "/v1/chat/completions": {"model": "sim", "messages": MESSAGES, "max_tokens": 20},
    "/v1/completions": {"model": "sim", "prompt": "hello", "max_tokens": 20},
    "/v1/responses": {"model": "sim", "input": "hello", "max_output_tokens": 20},
    "/v1/messages": {"model": "sim", "messages": MESSAGES, "max_tokens": 20},
}
SLOW = {"pools": {"decode": {"engine": {"step_base_s": 0.02}}}}


def counted(cluster):
    return sum(load.requests for load in cluster.core.picture._loads.values())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", BODIES)
async def test_load_is_counted_while_an_answer_is_made_whatever_the_surface(start_cluster, path, stream):
    cluster = await start_cluster(SLOW)
    asked = [
        asyncio.create_task(cluster.post(path, {**BODIES[path], "stream": stream}, x_tidemill_cache="off"))
        for _ in range(3)
    ]
    await cluster.until(lambda: counted(cluster) == 3)
    assert [answer.status for answer in await asyncio.gather(*asked)] == [200] * 3
    await cluster.assert_idle()
    assert counted(cluster) == 0


async def test_load_is_taken_off_when_callers_leave_engines_that_hang(start_cluster, given):
    failing = {"decode-0": given.engine_that(then="hang silently")}
    cluster = await start_cluster(SLOW, stand_ins=failing)
    asked = [asyncio.create_task(cluster.chat(f"hello {number}", max_tokens=20)) for number in range(6)]
    await cluster.until(lambda: counted(cluster) >= 3)
    for asking in asked:
        asking.cancel()
    await cluster.assert_idle()
    assert counted(cluster) == 0
