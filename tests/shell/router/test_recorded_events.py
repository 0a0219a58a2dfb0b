"""What vLLM 0.32 really sent, broken after every event: what the client gets in the end is what it sent.

Recorded from a CPU engine with SmolLM2-135M, asked for 24 greedy tokens: `recorded/`.
"""

from pathlib import Path
from typing import Any

import orjson
import pytest

from cluster.config import parse_config
from cluster.config.continuation import ContinuationConfig
from cluster.entities.workload import Surface
from deployments.messages import ToldTokens
from deployments.router.generation.named_events import answer_so_far
from deployments.router.generation.rest_of_stream import RestOfStream
from deployments.router.generation.stream import has_begun
from deployments.router.wire.requests import parse

CONFIG = parse_config("models: {sim: {source: s}}\npools: {decode: {model: sim, engine: {kind: simulated}}}")
TURNS = [{"role": "user", "content": "a"}]
ASKED: dict[Surface, dict[str, Any]] = {
    Surface.MESSAGES: {"messages": TURNS, "max_tokens": 24},
    Surface.RESPONSES: {"input": TURNS, "max_output_tokens": 24},
}


def recorded(surface: Surface) -> list[bytes]:
    path = Path(__file__).parent / "recorded" / f"{surface.value.rpartition('/')[2]}.sse"
    return [part + b"\n\n" for part in path.read_bytes().split(b"\n\n")[:-1]]


def is_told(part: bytes) -> bool:
    return ToldTokens.of(part) is not None


def rest_of(parts: list[bytes], said: int) -> bytes:
    """The same tokens as the text completion of the replica that goes on."""
    made = [told for told in map(ToldTokens.of, parts) if told is not None]
    heads = (b'data: {"content_index":0,"delta":"', b'"delta":{"type":"text_delta","text":"')
    pieces = [orjson.loads(p[p.index(b"{") :])["delta"] for p in parts if any(head in p for head in heads)]
    texts = [piece if isinstance(piece, str) else piece["text"] for piece in pieces]
    out = b""
    for told, text in list(zip(made, texts, strict=True))[said:]:
        choice = {"index": 0, "text": text, "finish_reason": told.finish, "stop_reason": None}
        event = {"id": "cmpl-other", "choices": [{**choice, "token_ids": list(told.made)}]}
        out += b"data: " + orjson.dumps(event) + b"\n\n"
    prompt = len(made[0].prompt) + said
    details = {"cached_tokens": 0}
    counts = {
        "prompt_tokens": prompt,
        "completion_tokens": len(made) - said,
        "prompt_tokens_details": details,
    }
    return out + b"data: " + orjson.dumps({"choices": [], "usage": counts}) + b"\n\ndata: [DONE]\n\n"


def events(parts: list[bytes], *, knows_cached: bool = True) -> list[Any]:
    found = []
    for part in parts:
        kind, data = part.split(b"\n")[:2]
        event = orjson.loads(data.removeprefix(b"data: "))
        if not knows_cached:
            for name in ("cache_creation_input_tokens", "cache_read_input_tokens"):
                event.get("usage", {}).pop(name, None)
        found.append((kind, event))
    return found


@pytest.mark.parametrize("surface", list(ASKED))
def test_after_every_event_the_rest_is_what_was_recorded(surface):
    parts = recorded(surface)
    whole = [part for part in parts if not is_told(part)]
    begun = 0
    for cut in range(1, len(parts) + 1):
        asked = parse(orjson.dumps({"model": "sim", "stream": True, **ASKED[surface]}), surface, CONFIG)
        so_far = answer_so_far(asked, ContinuationConfig(), 39)
        out = b"".join(so_far.strip(part) for part in parts[:cut])
        if not has_begun(out):
            continue
        begun += 1
        seam = so_far.break_off(b"", complete=True)
        closed = so_far.finished
        if closed:
            out += so_far.closing()
        else:
            assert seam is not None
            assert so_far.body(seam, most_tokens=None)
            out += RestOfStream(so_far, seam, annotate=None).feed(rest_of(parts, seam.tokens))
        # Where only the end was lost nobody knows how much of the prompt was cached.
        known = not closed or cut == len(parts)
        found = events(out.split(b"\n\n")[:-1], knows_cached=known)
        assert found == events(whole, knows_cached=known), cut
    assert begun > 50
