"""A stream that breaks at any byte, any number of times, reads as if it had not.

The engine is a small one that does what vLLM does with text: it holds back what a stop string may begin in,
says nothing for tokens that are no whole character, and tells everything at the end.
"""

from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.config import parse_config
from cluster.config.continuation import ContinuationConfig
from cluster.entities.workload import Surface
from cluster.policy.continuation import Boundary, find_seam
from deployments.router.generation.continuation import AnswerSoFar
from deployments.router.generation.rest_of_stream import RestOfStream
from deployments.router.generation.stream import EventStream
from deployments.router.wire.requests import parse
from tests.examples import examples

CONFIG = parse_config("models: {sim: {source: s}}\npools: {decode: {model: sim, engine: {kind: simulated}}}")
PROMPT_IDS = [11, 12, 13]
STOP = "END"

pieces = st.lists(
    st.one_of(
        st.sampled_from(["", " tide", "é", "水", '"', "\\n", "E", "N", "data: x"]), st.text(max_size=3)
    ),
    min_size=1,
    max_size=14,
).map(lambda found: [piece.encode("utf-8", "ignore").decode() for piece in found])


def engine(kind: Surface, texts: list[str], said: int, stops: bool) -> list[bytes]:
    """The events after `said` tokens, the token's place being its id."""
    chat = kind is Surface.CHAT
    head = {"id": f"x{said}", "object": "o", "created": said, "model": "sim"}
    held, out, decoded, emitted = len(STOP) - 1 if stops else 0, [], "", 0
    prompt = [*PROMPT_IDS, *range(1000, 1000 + said)]

    def event(choice: dict[str, Any], **more: Any) -> bytes:
        return b"data: " + orjson.dumps({**head, "choices": [choice], **more}) + b"\n\n"

    if chat:
        role = {"role": "assistant", "content": ""}
        out.append(event({"index": 0, "delta": role, "finish_reason": None}, prompt_token_ids=prompt))
    for place in range(said, len(texts)):
        decoded += texts[place]
        cut = decoded.find(STOP) if stops else -1
        last = place == len(texts) - 1 or cut >= 0
        until = cut if cut >= 0 else len(decoded) if last else max(emitted, len(decoded) - held)
        delta, emitted = decoded[emitted:until], until
        words = {"delta": {"content": delta}} if chat else {"text": delta}
        finish = {"finish_reason": "stop" if last else None}
        ids: dict[str, Any] = {"token_ids": [1000 + place]}
        if not chat and place == said:
            ids = {"prompt_token_ids": prompt} | ids
        out.append(event({"index": 0, **words, **finish, **ids}))
        if last:
            usage = {"prompt_tokens": len(prompt), "completion_tokens": place + 1 - said}
            break
    out.append(b"data: " + orjson.dumps({**head, "choices": [], "usage": usage}) + b"\n\n")
    return [*out, b"data: [DONE]\n\n"]


def read(stream: bytes, kind: Surface) -> tuple[str, list[Any]]:
    events = [orjson.loads(part[6:]) for part in stream.split(b"\n\n") if part.startswith(b"data: {")]
    text = ""
    for event in events:
        for choice in event["choices"]:
            text += choice["delta"].get("content") or "" if kind is Surface.CHAT else choice["text"]
    return text, events


def request(kind: Surface, stops: bool):
    body: dict[str, Any] = {"model": "sim", "stream": True, "stream_options": {"include_usage": True}}
    body |= {"messages": [{"role": "user", "content": "a"}]} if kind is Surface.CHAT else {"prompt": "a"}
    if stops:
        body["stop"] = [STOP]
    return parse(orjson.dumps(body), kind, CONFIG)


def fed(events: Any, stream: bytes, step: int) -> bytes:
    return b"".join(events.feed(stream[place : place + step]) for place in range(0, len(stream), step))


@settings(max_examples=examples(400), deadline=None)
@given(
    texts=pieces,
    kind=st.sampled_from([Surface.CHAT, Surface.COMPLETIONS]),
    stops=st.booleans(),
    cuts=st.lists(st.floats(0, 1), min_size=1, max_size=4),
    step=st.integers(1, 400),
)
def test_a_broken_stream_reads_as_a_whole_one(texts, kind, stops, cuts, step):
    asked = request(kind, stops)
    whole = b"".join(engine(kind, texts, 0, stops))
    wanted, told = read(whole, kind)
    so_far = AnswerSoFar(asked, ContinuationConfig(), 3)
    first = EventStream(kind, drop_usage=False)
    sent = whole[: int(cuts[0] * len(whole))]
    out = b"".join(so_far.strip(first.feed(sent[at : at + step])) for at in range(0, len(sent), step))
    tail, complete = first.tail, first.tail_is_all
    for cut in [*cuts[1:], 1.0]:
        seam = so_far.break_off(tail, complete=complete)
        if so_far.finished:
            out += so_far.closing()
            break
        if seam is None:
            # Nothing has gone out that could not be asked for again.
            assert read(out, kind)[0] == ""
            return
        body = orjson.loads(so_far.body(seam, most_tokens=99))
        said = len(body["prompt"]) - len(PROMPT_IDS)
        assert body["prompt"] == [*PROMPT_IDS, *range(1000, 1000 + said)]
        rest = b"".join(engine(Surface.COMPLETIONS, texts, said, stops))
        stream = RestOfStream(so_far, seam, annotate=None)
        out += fed(stream, rest[: int(cut * len(rest))], step)
    text, events = read(out, kind)
    assert text == wanted
    assert out.count(b"[DONE]") == 1
    assert {(e["id"], e["created"]) for e in events} == {("x0", 0)}
    assert [e["usage"]["completion_tokens"] for e in events if e.get("usage")] == [
        told[-1]["usage"]["completion_tokens"]
    ]
    assert events[-1]["usage"]["prompt_tokens"] == len(PROMPT_IDS)
    assert sum("role" in c.get("delta", {}) for e in events for c in e["choices"]) == (kind is Surface.CHAT)
    finishes = [c["finish_reason"] for e in events for c in e["choices"]]
    assert finishes[-1] == "stop"
    assert set(finishes[:-1]) <= {None}
    assert not any(c.get("token_ids") for e in events for c in e["choices"])


def test_what_came_before_nonsense_is_passed_on():
    """It counts as sent: the replica that goes on after that begins behind it."""
    texts = [" a", " b", " c", " d"]
    so_far = AnswerSoFar(request(Surface.COMPLETIONS, stops=False), ContinuationConfig(), 3)
    whole = engine(Surface.COMPLETIONS, texts, 0, stops=False)
    out = so_far.strip(whole[0])
    seam = so_far.break_off(whole[0], complete=True)
    assert seam is not None
    rest = engine(Surface.COMPLETIONS, texts, seam.tokens, stops=False)
    out += RestOfStream(so_far, seam, annotate=None).feed(rest[0] + rest[1] + b"data: {\n\n" + rest[2])
    assert read(out, Surface.COMPLETIONS)[0] == " a b c"
    assert so_far.sent_chars == len(" a b c")
    assert so_far.failure is not None


@given(
    chars=st.lists(st.integers(0, 4), min_size=1, max_size=30),
    held=st.integers(0, 9),
    sent=st.integers(0, 200),
)
def test_the_seam_is_the_last_place_that_the_client_has_whole(chars, held, sent):
    boundaries, total = [Boundary(tokens=0, chars=0)], 0
    for tokens, count in enumerate(chars, start=1):
        total += count
        boundaries.append(Boundary(tokens=tokens, chars=total + held))
    seam = find_seam(boundaries, sent_chars=sent)
    assert seam is not None
    reached = [boundary for boundary in boundaries if boundary.chars <= sent]
    assert seam.tokens == max(boundary.tokens for boundary in reached)
    assert seam.repeated_chars == sent - boundaries[seam.tokens].chars
    assert find_seam([Boundary(tokens=3, chars=sent + 1)], sent_chars=sent) is None
