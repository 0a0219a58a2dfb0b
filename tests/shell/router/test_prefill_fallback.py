"""Remote prefill is a choice, never a dependency: whatever happens to it, the decode replica answers."""

import asyncio

import pytest

JSON = "application/json"
SLOW = {"pools": {"prefill": {"engine": {"prefill_tokens_per_s": 150}}}}


async def assert_fell_back(cluster, given, reason, *, stream=False):
    answer = await cluster.chat(given.long_prompt, stream=stream)
    assert answer.status == 200, answer.content
    assert answer.headers["x-tidemill-path"] == "combined"
    assert answer.headers["x-tidemill-pool"] == "decode"
    record = await cluster.decision(answer)
    assert record["path_decision"]["choice"]["path"] == "disaggregated"
    assert record["path"] == "combined"
    assert reason in record["reasons"]
    assert [(a["role"], a["outcome"]) for a in record["attempts"]] == [
        ("prefill", "failed"),
        ("decode", "answered"),
    ]
    assert record["output_tokens"] == 8
    assert await cluster.metric(f'tidemill_fallbacks_total{{reason="{reason}"}}') == 1
    await cluster.assert_idle()


@pytest.mark.parametrize(
    ("options", "content", "reason"),
    [
        ({"content_type": JSON}, b"garbage", "prefill_failed"),
        ({"content_type": JSON}, b"", "prefill_failed"),
        ({"content_type": JSON, "then": "break"}, b'{"id":', "prefill_failed"),
        ({"content_type": JSON}, b"[]", "ticket_missing"),
        ({"content_type": JSON}, b"null", "ticket_missing"),
        ({"content_type": JSON}, b"{}", "ticket_missing"),
        ({"content_type": JSON}, b'{"kv_transfer_params":null}', "ticket_missing"),
        ({"content_type": JSON}, b'{"kv_transfer_params":{}}', "ticket_missing"),
        ({"content_type": JSON}, b'{"kv_transfer_params":"somewhere"}', "ticket_missing"),
        ({"status": 400, "content_type": JSON}, b'{"error":{}}', "prefill_failed"),
        ({"status": 500, "content_type": JSON}, b'{"error":{}}', "prefill_failed"),
        ({"status": 503, "content_type": JSON}, b"", "prefill_failed"),
    ],
)
async def test_a_prefill_that_fails_is_made_good(start_cluster, given, options, content, reason):
    cluster = await start_cluster(stand_ins={"prefill-0": given.engine_that(content, **options)})
    await assert_fell_back(cluster, given, reason)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_dead_prefill_replica_is_made_good_and_then_left_alone(start_cluster, given, stream):
    cluster = await start_cluster(
        {"routing": {"replicas": {"put_aside_first_s": 30, "put_aside_max_s": 30}}},
        stand_ins={"prefill-0": "closed"},
    )
    await assert_fell_back(cluster, given, "prefill_failed", stream=stream)
    again = await cluster.decision(await cluster.chat("again " + given.long_prompt))
    assert again["path_decision"]["choice"]["reasons"] == ["no_prefill_replica"]


async def test_a_prefill_that_hangs_is_given_up_in_time_and_left_alone(start_cluster, given):
    cluster = await start_cluster(
        {
            "routing": {
                "disaggregation": {"prefill_timeout_s": 0.2},
                "replicas": {"put_aside_first_s": 30, "put_aside_max_s": 30},
            }
        },
        stand_ins={"prefill-0": given.engine_that(then="hang silently")},
    )
    await assert_fell_back(cluster, given, "prefill_timed_out")
    again = await cluster.decision(await cluster.chat("again " + given.long_prompt))
    assert again["path_decision"]["choice"]["reasons"] == ["no_prefill_replica"]


async def test_a_slow_prefill_is_aborted_when_it_is_given_up(start_cluster, given):
    cluster = await start_cluster(
        {**SLOW, "routing": {"disaggregation": {"prefill_timeout_s": 0.2, "prefill_wait_s_max": 100}}}
    )
    prefill = cluster.engines["prefill-0"].port
    asking = asyncio.create_task(cluster.chat(given.long_prompt))
    await cluster.until(lambda: prefill.open_requests == 1)
    # Computed to the end, the prompt would take more than a second.
    assert await cluster.until(lambda: prefill.open_requests == 0) < 0.7
    answer = await asking
    assert (answer.status, answer.headers["x-tidemill-path"]) == (200, "combined")
    assert "prefill_timed_out" in (await cluster.decision(answer))["reasons"]
    await cluster.assert_idle()


async def test_a_ticket_that_nobody_honours_costs_time_and_nothing_else(start_cluster, given):
    gone = (
        b'{"kv_transfer_params":{"do_remote_prefill":true,"remote_engine_id":"e","remote_request_id":"r",'
        b'"remote_host":"127.0.0.1","remote_port":1}}'
    )
    cluster = await start_cluster(stand_ins={"prefill-0": given.engine_that(gone, content_type=JSON)})
    answer = await cluster.chat(given.long_prompt)
    assert (answer.status, answer.json["usage"]["completion_tokens"]) == (200, 8)
    await cluster.assert_idle()


async def test_a_decode_replica_that_fails_after_the_prefill_is_replaced(start_cluster, given):
    cluster = await start_cluster(stand_ins={"decode-0": "closed"}, draw=0.0)
    answers = [await cluster.chat(f"{number} {given.long_prompt}") for number in range(3)]
    assert {answer.status for answer in answers} == {200}
    assert {answer.headers["x-tidemill-replica"] for answer in answers} == {"decode-1"}
    await cluster.assert_idle()


async def test_many_at_once_while_prefill_replicas_fail(start_cluster, given):
    failing = given.engine_that(b"", status=500)
    cluster = await start_cluster(stand_ins={"prefill-0": failing})
    answers = await asyncio.gather(
        *(cluster.chat(f"{number} {given.long_prompt}", stream=number % 2 == 0) for number in range(12))
    )
    assert {answer.status for answer in answers} == {200}
    await cluster.assert_idle()
