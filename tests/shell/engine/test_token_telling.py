"""The ids of tokens between the events of a stream: before the events that they are of, for whoever asks."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from deployments.engine.token_telling import TellsTokens, noted
from deployments.messages import TOKENS_ASKED, ToldTokens


def output(ids: list[int], text: str, finish: str | None = None) -> Any:
    choice = SimpleNamespace(token_ids=ids, text=text, finish_reason=finish, stop_reason=None)
    return SimpleNamespace(prompt_token_ids=[7, 8], outputs=[choice])


class Engine:
    """Makes three tokens, of which the second is no whole character; knows whether it was stopped."""

    def __init__(self) -> None:
        self.stopped = False

    async def generate(self, prompt: str, **_: Any) -> Any:
        assert prompt == "p"
        try:
            yield output([1], "a")
            yield output([2], "")
            await asyncio.sleep(0)
            yield output([3], "é", "stop")
        finally:
            self.stopped = True


def surface(engine: Engine, *, stream: bool = True, reads: int = 9) -> Any:
    """Like vLLM's: an event for every output that has text, made in a task of its own."""
    generate = noted(engine.generate)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        del scope, receive
        kind = b"text/event-stream" if stream else b"application/json"
        outputs = generate("p", request_id="r")

        async def answer() -> None:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
            for _ in range(reads):
                found = await anext(outputs, None)
                if found is None:
                    break
                if found.outputs[0].text:
                    event = f"data: {found.outputs[0].text}\n\n".encode()
                    await send({"type": "http.response.body", "body": event, "more_body": True})
            await outputs.aclose()
            await send({"type": "http.response.body", "body": b""})

        await asyncio.create_task(answer())

    return TellsTokens(app)


async def heard(app: Any, *headers: tuple[bytes, bytes]) -> list[Any]:
    """The parts of the body, with what is told between them."""
    bodies: list[bytes] = []

    async def send(message: Any) -> None:
        bodies.append(message.get("body", b""))

    await app({"type": "http", "headers": list(headers)}, None, send)
    parts = b"".join(bodies).split(b"\n\n")[:-1]
    return [ToldTokens.of(part) or part.decode() for part in parts]


ASKS = (TOKENS_ASKED.encode(), b"1")


async def test_ids_stand_before_the_events_that_they_are_of():
    assert await heard(surface(Engine()), ASKS) == [
        ToldTokens(prompt=(7, 8), made=(1,), chars=1),
        "data: a",
        ToldTokens(made=(2, 3), chars=1, finish="stop"),
        "data: é",
    ]


async def test_nobody_else_is_told():
    assert await heard(surface(Engine())) == ["data: a", "data: é"]
    assert await heard(surface(Engine()), (TOKENS_ASKED.encode(), b"0")) == ["data: a", "data: é"]
    assert await heard(surface(Engine(), stream=False), ASKS) == ["data: a", "data: é"]


async def test_two_requests_at_a_time_are_kept_apart():
    engine = Engine()
    app = surface(engine)
    told, untold = await asyncio.gather(heard(app, ASKS), heard(app))
    assert (len(told), len(untold)) == (4, 2)


async def test_an_engine_hears_at_once_that_nobody_reads_on():
    engine = Engine()
    await heard(surface(engine, reads=1), ASKS)
    assert engine.stopped


@pytest.mark.parametrize(
    "told",
    [
        ToldTokens(),
        ToldTokens(prompt=(1,), made=(2, 3), chars=4, finish="stop", stop="\n\nHuman: é"),
        ToldTokens(made=(2,), finish="length", stop=151_645),
    ],
)
def test_what_is_told_is_read_again(told):
    comment = told.comment()
    assert comment.startswith(b":")  # what clients of event streams pass over
    assert comment.index(b"\n\n") == len(comment) - 2
    assert ToldTokens.of(comment.removesuffix(b"\n\n")) == told


def test_what_is_not_told_is_an_event_or_an_error():
    assert ToldTokens.of(b"data: {}") is None
    assert ToldTokens.of(b": ping") is None
    for broken in (b": tidemill-tokens {", b': tidemill-tokens {"more":1}', b": tidemill-tokens 3"):
        with pytest.raises(ValueError):
            ToldTokens.of(broken)
