"""What comes from outside may be anything: it is understood, or refused in the one way its readers know."""

import contextlib
import itertools
import json
import random
from typing import Any

import orjson
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.config import ConfigError, check_config, parse_config
from cluster.entities.decision import Attempt, DecisionRecord
from cluster.entities.timeline import Timeline
from cluster.entities.workload import RequestSignals, Surface
from cluster.replay import DecisionLogError, read_log, to_json
from deployments.router.cache_client import key_of
from deployments.router.generation.stream import EventStream
from deployments.router.wire.errors import ApiError
from deployments.router.wire.requests import parse
from tests.examples import examples

CONFIG_TEXT = """
models: {sim: {source: s, aliases: [auto]}}
pools:
  decode: {model: sim, engine: {kind: simulated}, replicas: {min: 1, max: 2}}
gateway: {port: 8001, max_attempts: 3}
routing: {disaggregation: {uncached_tokens_min: 64}}
"""
CONFIG = parse_config(CONFIG_TEXT)
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**12), 10**12), st.floats(allow_nan=True), st.text(max_size=8)
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
GENERATING = [surface for surface in Surface if surface.generates]


def _places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    if isinstance(data, dict):
        for name, value in data.items():
            found += _places(value, (*path, name))
    return found


DEFAULTS = CONFIG.model_dump(mode="json")
PLACES = _places(DEFAULTS)


@settings(max_examples=examples(200), deadline=None)
@given(place=st.sampled_from(PLACES), value=values)
def test_a_configuration_is_taken_or_refused_in_words(place, value):
    data = yaml.safe_load(CONFIG_TEXT)
    holder = data
    for name in place[:-1]:
        holder = holder.setdefault(name, {})
    holder[place[-1]] = value
    config = None
    with contextlib.suppress(ConfigError):
        config = check_config(data)
    # What was taken means the same when it is written down and read again.
    assert config is None or check_config(config.model_dump(mode="json")) == config


@settings(max_examples=examples(200), deadline=None)
@given(text=st.text(max_size=200))
def test_any_text_is_no_configuration_but_an_error(text):
    with pytest.raises(ConfigError):
        parse_config(text)


bodies = st.fixed_dictionaries(
    {},
    optional={
        "model": st.sampled_from(["sim", "auto", "nope", 7, None]),
        "messages": st.one_of(
            values,
            st.just([{"role": "user", "content": "a"}]),
            st.lists(st.fixed_dictionaries({"role": values})),
        ),
        "prompt": values,
        "input": values,
        "max_tokens": values,
        "n": values,
        "stream": values,
        "stop": values,
        "tools": values,
        "stream_options": values,
        "logprobs": values,
        "response_format": values,
        "user": values,
    },
)


@settings(max_examples=examples(400), deadline=None)
@given(body=bodies, surface=st.sampled_from(GENERATING))
def test_a_request_is_parsed_or_refused_as_the_client_s_fault(body, surface):
    raw = orjson.dumps(body, option=orjson.OPT_NON_STR_KEYS)
    refused = request = None
    try:
        request = parse(raw, surface, CONFIG)
    except ApiError as error:
        refused = error
    if refused is not None:
        assert refused.status in (400, 404)
        assert refused.message
        assert orjson.dumps(refused.body(surface))
    else:
        assert request is not None
        assert request.model == "sim"
        assert isinstance(request.prompt, bytes)


@settings(max_examples=examples(200), deadline=None)
@given(raw=st.binary(max_size=200), surface=st.sampled_from(GENERATING))
def test_any_bytes_are_refused_as_the_client_s_fault(raw, surface):
    with pytest.raises(ApiError) as refused:
        parse(raw, surface, CONFIG)
    assert refused.value.status in (400, 404)


fields = st.dictionaries(
    st.sampled_from(["temperature", "max_tokens", "seed", "top_p", "stop", "presence_penalty"]),
    st.one_of(st.integers(0, 9), st.text(max_size=3)),
    max_size=4,
)


@given(first=fields, second=fields, text=st.text(max_size=9), other=st.text(max_size=9), order=st.randoms())
def test_equal_requests_have_one_key_and_others_have_others(first, second, text, other, order):
    def key(extra: dict[str, Any], said: str) -> str:
        pairs = list({"model": "sim", "messages": [{"role": "user", "content": said}], **extra}.items())
        order.shuffle(pairs)
        try:
            return key_of(parse(orjson.dumps(dict(pairs)), Surface.CHAT, CONFIG))
        except ApiError:  # a number where there is none: it has no key to compare
            return json.dumps([sorted(extra.items(), key=str), said])

    assert key(first, text) == key(first, text)
    assert (key(first, text) == key(second, other)) == ((first, text) == (second, other))


EVENTS = st.lists(
    st.one_of(
        st.text(max_size=5).map(lambda text: {"choices": [{"index": 0, "delta": {"content": text}}]}),
        st.just({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}),
    ),
    max_size=8,
)


@given(events=EVENTS, cuts=st.lists(st.integers(0, 2000), max_size=12), drop=st.booleans())
def test_where_a_stream_is_cut_does_not_matter(events, cuts, drop):
    whole = b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in events) + b"data: [DONE]\n\n"
    places = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    stream = EventStream(Surface.CHAT, drop_usage=drop)
    out = b"".join(stream.feed(whole[begin:end]) for begin, end in itertools.pairwise(places))
    out += stream.rest()
    kept = [event for event in events if not (drop and "usage" in event)]
    assert out == b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in kept) + b"data: [DONE]\n\n"
    assert stream.ended_well()
    told = any("usage" in event for event in events)
    assert (stream.usage() is not None) == told


def _log(records: int) -> str:
    lines = []
    for number in range(records):
        signals = RequestSignals(surface=Surface.CHAT, model="sim", tenant="t", prompt_tokens=number)
        record = DecisionRecord(
            decision_id=f"d-{number}",
            router="r",
            at_wall_s=1.0,
            signals=signals,
            cache="miss",
            attempts=(Attempt(replica_id="a", role="decode", outcome="answered", started_at_s=0.0),),
            status=200,
            timeline=Timeline(arrived_at_s=0.0),
            config_hash="h",
        )
        lines.append(json.dumps(to_json(record)) + "\n")
    return "".join(lines)


LOG = _log(4)


@settings(max_examples=examples(300), deadline=None)
@given(cut=st.integers(0, len(LOG)))
def test_a_log_that_ends_anywhere_gives_all_whole_records(cut):
    found = list(read_log(LOG[:cut].splitlines(keepends=True)))
    whole = LOG[:cut].count("\n")
    ends_whole = cut < len(LOG) and LOG[cut : cut + 1] == "\n"  # only the line break is missing
    assert [record.decision_id for record in found] == [f"d-{n}" for n in range(whole + ends_whole)]


@settings(max_examples=examples(300), deadline=None)
@given(seed=st.integers(0, 2**32), changes=st.integers(1, 5))
def test_a_log_that_was_spoilt_is_read_or_refused_with_the_line(seed, changes):
    chance = random.Random(seed)
    spoilt = list(LOG)
    for _ in range(changes):
        spoilt[chance.randrange(len(spoilt))] = chance.choice('"{}[]:,0x\n \x00é')
    found: list[Any] = []
    refused = "line "
    try:
        found = list(read_log("".join(spoilt).splitlines(keepends=True)))
    except DecisionLogError as error:
        refused = str(error)
    assert refused.startswith("line ")
    assert all(isinstance(record, DecisionRecord) for record in found)
