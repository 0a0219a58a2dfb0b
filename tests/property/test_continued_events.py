"""Responses and messages that break at any byte read as if they had not, and count their tokens once."""

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.config.continuation import ContinuationConfig
from cluster.entities.workload import Surface
from deployments.messages import ToldTokens
from deployments.router.generation.named_events import answer_so_far
from deployments.router.generation.rest_of_stream import RestOfStream
from deployments.router.generation.stream import EventStream, has_begun
from deployments.router.wire.requests import parse
from tests.examples import examples
from tests.property.test_continuation import CONFIG, PROMPT_IDS, STOP, engine, fed, pieces


def request(kind: Surface, stops: bool) -> Any:
    body: dict[str, Any] = {"model": "sim", "stream": True}
    turns = [{"role": "user", "content": "a"}]
    body |= {"messages": turns, "max_tokens": 99} if kind is Surface.MESSAGES else {"input": turns}
    if stops:
        body["stop_sequences" if kind is Surface.MESSAGES else "stop"] = [STOP]
    return parse(orjson.dumps(body), kind, CONFIG)


class Writer:
    """vLLM's events of both surfaces, in its order."""

    def __init__(self, kind: Surface) -> None:
        self.kind = kind
        self.out: list[bytes] = []
        self.number = -1
        self.text = ""
        self.at = {"item_id": "m", "output_index": 0, "content_index": 0}

    def event(self, kind: str, **fields: Any) -> None:
        if self.kind is Surface.RESPONSES:
            self.number += 1
            fields["sequence_number"] = self.number
        self.out.append(b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps({"type": kind, **fields})))

    def start(self) -> None:
        if self.kind is Surface.RESPONSES:
            self.event("response.created", response={"id": "r", "status": "in_progress", "output": []})
            self.event("response.in_progress", response={"id": "r"})
        else:
            usage = {"input_tokens": len(PROMPT_IDS), "output_tokens": 0}
            self.event("message_start", message={"id": "r", "usage": usage})

    def piece(self, text: str) -> None:
        if not text:
            return
        if self.kind is Surface.RESPONSES:
            if not self.text:
                item = {"id": "m", "type": "message", "content": [], "status": "in_progress"}
                self.event("response.output_item.added", output_index=0, item=item)
                part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
                self.event("response.content_part.added", **self.at, part=part)
            self.event("response.output_text.delta", **self.at, delta=text, logprobs=[])
        else:
            if not self.text:
                self.event("content_block_start", index=0, content_block={"type": "text", "text": ""})
            self.event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})
        self.text += text

    def end(self, tokens: int, stop: str | None) -> None:
        if self.kind is Surface.MESSAGES:
            if self.text:
                self.event("content_block_stop", index=0)
            delta = {"stop_reason": "stop_sequence" if stop else "end_turn", "stop_sequence": stop}
            usage = {"input_tokens": len(PROMPT_IDS), "output_tokens": tokens}
            self.event("message_delta", delta=delta, usage=usage)
            self.event("message_stop")
            return
        part = {"type": "output_text", "text": self.text, "annotations": [], "logprobs": None}
        item = {"id": "m", "type": "message", "content": [part], "status": "completed"}
        if self.text:
            self.event("response.output_text.done", **self.at, text=self.text, logprobs=[])
            self.event("response.content_part.done", **self.at, part=part)
            self.event("response.output_item.done", output_index=0, item=item)
        usage = {
            "input_tokens": len(PROMPT_IDS),
            "input_tokens_details": {
                "cached_tokens": 0,
                "cache_write_tokens": 0,
                "input_tokens_per_turn": [],
                "cached_tokens_per_turn": [],
            },
            "output_tokens": tokens,
            "output_tokens_details": {
                "reasoning_tokens": 0,
                "tool_output_tokens": 0,
                "output_tokens_per_turn": [],
                "tool_output_tokens_per_turn": [],
            },
            "total_tokens": len(PROMPT_IDS) + tokens,
        }
        response = {"id": "r", "status": "completed", "output": [item] if self.text else [], "usage": usage}
        self.event("response.completed", response={**response, "incomplete_details": None})


def named_engine(kind: Surface, texts: list[str], stops: bool) -> bytes:
    """The whole stream of the engine of the other test, on another surface, with its tokens told."""
    writer, stop, parts = Writer(kind), None, []
    for tokens, event in enumerate(engine(Surface.COMPLETIONS, texts, 0, stops)[:-2], start=1):
        (choice,) = orjson.loads(event[6:])["choices"]
        last = choice["finish_reason"] is not None
        stop = STOP if last and stops and STOP in "".join(texts[:tokens]) else None
        told = ToldTokens(
            prompt=() if tokens > 1 else tuple(PROMPT_IDS),
            made=tuple(choice["token_ids"]),
            chars=len(choice["text"]),
            finish=choice["finish_reason"],
            stop=stop,
        )
        parts.append(told.comment())
        if tokens == 1:
            writer.start()
        writer.piece(choice["text"])
        if last:
            writer.end(tokens, stop)
        parts += writer.out
        writer.out.clear()
    return b"".join(parts)


def rest_of(texts: list[str], said: int, stops: bool) -> bytes:
    """The stream of the replica that goes on; it says at which stop string it ended."""
    found = engine(Surface.COMPLETIONS, texts, said, stops)
    stopped = stops and STOP in "".join(texts)
    return b"".join(
        event.replace(b'"finish_reason":"stop"', b'"finish_reason":"stop","stop_reason":"%b"' % STOP.encode())
        if stopped
        else event
        for event in found
    )


def events_in(stream: bytes) -> list[dict[str, Any]]:
    parts = [part.split(b"\n") for part in stream.split(b"\n\n")[:-1]]
    assert all(len(lines) == 2 for lines in parts)
    return [orjson.loads(data[6:]) for _, data in parts]


def read(stream: bytes) -> tuple[str, list[Any]]:
    """The text in the deltas, and all other events without their numbers."""
    text, found = "", []
    for place, event in enumerate(events_in(stream)):
        assert event.pop("sequence_number", place) == place
        if event["type"] in ("response.output_text.delta", "content_block_delta"):
            text += event["delta"] if isinstance(event["delta"], str) else event["delta"]["text"]
        else:
            found.append(event)
    return text, found


@pytest.mark.parametrize("kind", [Surface.RESPONSES, Surface.MESSAGES])
def test_what_an_engine_aborted_is_gone_on_with(kind):
    """An engine that is shut down ends its answers as if it had meant to, before its connections break."""
    so_far = answer_so_far(request(kind, stops=False), ContinuationConfig(), 3)
    whole = named_engine(kind, [" a", " b", " c"], stops=False)
    told = whole[: whole.index(b" b") + 2]
    told = told[: told.rindex(b"\n\n") + 2]  # up to the ids of the second token
    out = so_far.strip(told.replace(b'"made":[1001],"chars":2', b'"chars":0,"finish":"abort"'))
    seam = so_far.break_off(b"", complete=True)
    assert not so_far.finished
    assert seam is not None
    rest = rest_of([" a", " b", " c"], seam.tokens, stops=False)
    out += RestOfStream(so_far, seam, annotate=None).feed(rest)
    assert read(out)[0] == " a b c"


@settings(max_examples=examples(400), deadline=None)
@given(
    texts=pieces,
    kind=st.sampled_from([Surface.RESPONSES, Surface.MESSAGES]),
    stops=st.booleans(),
    cuts=st.lists(st.floats(0, 1), min_size=1, max_size=4),
    step=st.integers(1, 400),
)
def test_a_broken_stream_reads_as_a_whole_one(texts, kind, stops, cuts, step):
    whole = named_engine(kind, texts, stops)
    so_far = answer_so_far(request(kind, stops), ContinuationConfig(), 3)
    assert so_far.headers
    first = EventStream(kind, drop_usage=False)
    sent = whole[: int(cuts[0] * len(whole))]
    out = b"".join(so_far.strip(first.feed(sent[at : at + step])) for at in range(0, len(sent), step))
    if not has_begun(out):
        return  # the router has sent nothing yet, and asks for all of it again
    for cut in [*cuts[1:], 1.0]:
        seam = so_far.break_off(b"", complete=True)
        if so_far.finished:
            out += so_far.closing()
            break
        if seam is None:
            # Nothing has gone out that could not be asked for again.
            assert read(out)[0] == ""
            return
        said = len(orjson.loads(so_far.body(seam, most_tokens=99))["prompt"]) - len(PROMPT_IDS)
        rest = rest_of(texts, said, stops)
        out += fed(RestOfStream(so_far, seam, annotate=None), rest[: int(cut * len(rest))], step)
    assert not out.count(b"tidemill")
    undisturbed = b"".join(
        part + b"\n\n" for part in whole.split(b"\n\n")[:-1] if not part.startswith(b": tidemill")
    )
    assert read(out) == read(undisturbed)
