"""Which requests may be split, and what the two engines of a split request are sent."""

from typing import Any

import orjson
import pytest

from cluster.entities.workload import Surface
from deployments.router.wire.requests import answer_body, counts_usage, prefill_body, tenant_of

CHAT, COMPLETIONS = Surface.CHAT, Surface.COMPLETIONS
RESPONSES, MESSAGES = Surface.RESPONSES, Surface.MESSAGES
TURNS = [{"role": "user", "content": "hello"}]
BODIES: dict[Surface, dict[str, Any]] = {
    CHAT: {"model": "sim", "messages": TURNS},
    MESSAGES: {"model": "sim", "messages": TURNS, "max_tokens": 9},
    COMPLETIONS: {"model": "sim", "prompt": "hello"},
    RESPONSES: {"model": "sim", "input": "hello"},
}
TICKET = {"do_remote_prefill": True, "remote_engine_id": "e"}


@pytest.mark.parametrize(
    ("surface", "fields", "splittable"),
    [
        (CHAT, {}, True),
        (COMPLETIONS, {}, True),
        (RESPONSES, {}, True),
        (MESSAGES, {}, True),
        (CHAT, {"n": 1}, True),
        (CHAT, {"n": 2}, False),
        (COMPLETIONS, {"best_of": 1}, True),
        (COMPLETIONS, {"best_of": 3}, False),
        (COMPLETIONS, {"echo": True}, False),
        (COMPLETIONS, {"echo": False}, True),
        (COMPLETIONS, {"prompt_logprobs": 0}, False),
        (CHAT, {"prompt_logprobs": 5}, False),
        (CHAT, {"logprobs": True, "top_logprobs": 3}, True),
        (CHAT, {"use_beam_search": True}, False),
        (CHAT, {"kv_transfer_params": None}, True),
        (COMPLETIONS, {"max_tokens": 0}, False),
        (COMPLETIONS, {"max_tokens": 1}, True),
        (COMPLETIONS, {"prompt": ["a"]}, True),
        (COMPLETIONS, {"prompt": ["a", "b"]}, False),
        (COMPLETIONS, {"prompt": [1, 2]}, True),
        (COMPLETIONS, {"prompt": [[1, 2]]}, True),
        (COMPLETIONS, {"prompt": [[1], [2]]}, False),
        (RESPONSES, {"previous_response_id": "resp_1"}, False),
        (RESPONSES, {"background": True}, False),
        (CHAT, {"stream": True}, True),
    ],
)
def test_what_may_be_split(parsed, surface, fields, splittable):
    assert parsed(surface, {**BODIES[surface], **fields}).splittable is splittable


@pytest.mark.parametrize("surface", [Surface.TOKENIZE, Surface.DETOKENIZE, Surface.COUNT_TOKENS])
def test_what_generates_nothing_is_never_split(parsed, surface):
    assert not parsed(surface, {"model": "sim", "messages": TURNS}).splittable


@pytest.mark.parametrize("surface", list(BODIES))
def test_the_prefill_replica_makes_one_token_and_a_ticket(parsed, surface):
    fields = {"stream": True, "stream_options": {"include_usage": True}, "min_tokens": 4, "top_k": 3}
    if surface is RESPONSES:
        fields["max_output_tokens"] = 50
    else:
        fields |= {"max_tokens": 50, "max_completion_tokens": 50}
    request = parsed(surface, {**BODIES[surface], **fields})
    body = prefill_body(request)
    one = "max_output_tokens" if surface is RESPONSES else "max_tokens"
    bounds = {"max_tokens", "max_completion_tokens", "max_output_tokens", "min_tokens"} & body.keys()
    assert bounds == {one}
    assert body[one] == 1
    assert body["stream"] is False
    assert "stream_options" not in body
    assert body["kv_transfer_params"]["do_remote_decode"] is True
    assert body["kv_transfer_params"]["do_remote_prefill"] is False
    assert body["top_k"] == 3
    if surface is RESPONSES:
        assert body["store"] is False
    # The request itself is still to be answered.
    assert request.body["stream"] is True


def test_the_answering_replica_gets_the_request_and_the_ticket(parsed):
    request = parsed(CHAT, {**BODIES[CHAT], "temperature": 0, "odd": [1]})
    assert orjson.loads(answer_body(request, None)) == {**BODIES[CHAT], "temperature": 0, "odd": [1]}
    with_ticket = orjson.loads(answer_body(request, TICKET))
    assert with_ticket == {**request.body, "kv_transfer_params": TICKET}


@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}, {"chunk": 3}])
@pytest.mark.parametrize("surface", [CHAT, COMPLETIONS])
def test_usage_is_asked_for_where_streams_tell_it_only_then(parsed, surface, options):
    request = parsed(surface, {**BODIES[surface], "stream": True, "stream_options": options})
    assert counts_usage(request)
    sent = orjson.loads(answer_body(request, None))
    assert sent["stream_options"] == {**(options or {}), "include_usage": True}
    assert not request.wants_usage


@pytest.mark.parametrize(("surface", "stream"), [(CHAT, False), (RESPONSES, True), (MESSAGES, True)])
def test_usage_is_not_asked_for_where_it_comes_anyway(parsed, surface, stream):
    request = parsed(surface, {**BODIES[surface], "stream": stream})
    assert not counts_usage(request)
    assert "stream_options" not in orjson.loads(answer_body(request, None))


@pytest.mark.parametrize("surface", list(BODIES))
def test_a_tenants_prefix_cache_is_salted_by_tenant_and_by_what_the_client_says(parsed, surface):
    plain, salted = parsed(surface, BODIES[surface]), parsed(surface, {**BODIES[surface], "cache_salt": "s"})
    sent = {
        request.apart_from_other_tenants(tenant).cache_salt
        for request in (plain, salted)
        for tenant in ("mill", "weir")
    }
    assert len(sent) == 4
    assert all(len(salt) == 32 for salt in sent)
    assert plain.apart_from_other_tenants("mill").cache_salt in sent
    assert orjson.loads(answer_body(plain.apart_from_other_tenants("mill"), None))["cache_salt"] in sent
    assert prefill_body(plain.apart_from_other_tenants("mill"))["cache_salt"] in sent


def test_no_salt_said_aloud_keeps_tenants_apart_as_well(parsed):
    silent, aloud = parsed(CHAT, BODIES[CHAT]), parsed(CHAT, {**BODIES[CHAT], "cache_salt": None})
    salt = aloud.apart_from_other_tenants("mill").cache_salt
    assert salt == silent.apart_from_other_tenants("mill").cache_salt != ""


def test_a_salt_that_engines_refuse_is_left_for_them_to_refuse(parsed):
    request = parsed(CHAT, {**BODIES[CHAT], "cache_salt": 7})
    assert request.apart_from_other_tenants("mill").body["cache_salt"] == 7


def test_the_tenant_follows_the_key_and_does_not_show_it():
    key = "sk-secret"
    tenant = tenant_of({"authorization": f"Bearer {key}"})
    assert tenant == tenant_of({"x-api-key": key})
    assert tenant != tenant_of({"x-api-key": "sk-another"})
    assert key not in tenant
    assert tenant_of({}) == tenant_of({"authorization": "Bearer "}) == "anonymous"
