"""The simulated engine takes the time that cluster.performance says, on a virtual clock."""

import asyncio
import json

import pytest

from cluster.config.pools import SimulatedEngine
from cluster.entities.pool import Role
from deployments.engine.simulated import SimulatedApp, SimulatedLimits

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]

CONFIG = SimulatedEngine(
    prefill_tokens_per_s=100, step_base_s=0.25, step_per_sequence_s=0.05, max_model_len=1000, output_tokens=7
)


@pytest.fixture
async def app():
    app = SimulatedApp(CONFIG, model="sim", role=Role.COMBINED)
    yield app
    await app.aclose()


def ask(prompt_tokens, max_tokens, *, stream=True, **more):
    body = {"prompt": [1] * prompt_tokens, "max_tokens": max_tokens, "stream": stream, **more}
    return json.dumps(body).encode()


async def token_times(app, raw):
    loop = asyncio.get_running_loop()
    answer = await app.answer("/v1/completions", raw)
    return [round(loop.time(), 6) async for _ in answer.stream]


async def test_the_first_token_comes_with_the_end_of_prefill_and_the_others_with_each_step(app):
    assert await token_times(app, ask(50, 3)) == [0.5, 0.8, 1.1]


async def test_prompts_are_prefilled_one_after_another(app):
    times = await asyncio.gather(*(token_times(app, ask(100, 1)) for _ in range(3)))
    assert times == [[1.0], [2.0], [3.0]]


async def test_a_step_takes_longer_the_more_sequences_decode(app):
    alone = await token_times(app, ask(1, 5))
    together = await asyncio.gather(*(token_times(app, ask(1, 30)) for _ in range(4)))
    assert alone[-1] - alone[-2] == pytest.approx(0.3)
    assert together[0][-1] - together[0][-2] == pytest.approx(0.25 + 4 * 0.05)


async def test_all_decoding_sequences_advance_in_the_same_instant(app):
    first, second = await asyncio.gather(token_times(app, ask(1, 20)), token_times(app, ask(1, 20)))
    assert len(set(first[1:]) & set(second[1:])) >= 18


async def test_a_whole_answer_takes_as_long_as_its_stream(app):
    loop = asyncio.get_running_loop()
    streamed = await token_times(app, ask(50, 4))
    began_at_s = loop.time()
    await app.answer("/v1/completions", ask(50, 4, stream=False))
    assert loop.time() - began_at_s == pytest.approx(streamed[-1])


async def test_an_unbounded_answer_has_the_configured_length(app):
    raw = json.dumps({"prompt": "a", "stream": False}).encode()
    body = json.loads((await app.answer("/v1/completions", raw)).body)
    assert body["usage"]["completion_tokens"] == CONFIG.output_tokens
    assert body["choices"][0]["finish_reason"] == "stop"


async def test_a_reader_who_leaves_frees_the_place_and_the_prefill_queue(app):
    answer = await app.answer("/v1/completions", ask(50, 100))
    waiting = await app.answer("/v1/completions", ask(50, 100))
    await asyncio.sleep(0.1)
    assert (app.load().requests_running, app.load().requests_waiting) == (1, 1)
    waiting.release()
    assert app.load().requests_waiting == 0
    await anext(answer.stream)
    await answer.stream.aclose()
    assert app.load().requests_running == 0


async def test_the_batch_is_bounded_and_what_does_not_fit_waits():
    app = SimulatedApp(
        CONFIG, model="sim", role=Role.COMBINED, limits=SimulatedLimits(running_max=2, waiting_max=1)
    )
    streams = []
    for _ in range(3):
        streams.append(asyncio.create_task(token_times(app, ask(1, 50))))
        await asyncio.sleep(0.1)
    assert (app.load().requests_running, app.load().requests_waiting) == (2, 1)
    refused = await app.answer("/v1/completions", ask(1, 50))
    assert refused.status == 503
    assert json.loads(refused.body)["error"]["code"] == 503
    assert [len(times) for times in await asyncio.gather(*streams)] == [50, 50, 50]
    await app.aclose()


async def test_a_redeemed_ticket_saves_the_prefill_and_works_once(app):
    loop = asyncio.get_running_loop()
    prompt = ask(500, 1, stream=False, kv_transfer_params={"do_remote_decode": True})
    ticket = json.loads((await app.answer("/v1/completions", prompt)).body)["kv_transfer_params"]
    assert ticket["do_remote_prefill"] is True
    assert ticket["remote_num_tokens"] == 500

    async def took_s():
        began_at_s = loop.time()
        await app.answer("/v1/completions", ask(500, 1, stream=False, kv_transfer_params=ticket))
        return loop.time() - began_at_s

    assert await took_s() < 0.5
    assert await took_s() == pytest.approx(5.0)


async def test_roles_limit_the_hand_over():
    decode = SimulatedApp(CONFIG, model="sim", role=Role.DECODE)
    raw = ask(5, 1, stream=False, kv_transfer_params={"do_remote_decode": True})
    assert json.loads((await decode.answer("/v1/completions", raw)).body)["kv_transfer_params"] is None
    await decode.aclose()
