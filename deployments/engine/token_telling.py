"""Tells the router the ids of the tokens behind a stream whose own events do not tell them.

vLLM's chat and text completions do (`return_token_ids`); its Responses and Messages surfaces have no such
field. There the ids are taken from what the engine gives the surface, and put between the surface's events as
comments (`deployments.messages.ToldTokens`).
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from contextlib import aclosing
from contextvars import ContextVar
from typing import Any

from deployments.messages import TOKENS_ASKED, ToldTokens

_ASKED = TOKENS_ASKED.encode()
_Message = MutableMapping[str, Any]
_Send = Callable[[_Message], Awaitable[None]]


class Notes:
    """What the engine has made for one request and the router has not been told."""

    def __init__(self) -> None:
        self._prompt_told = False
        self._clear()

    def _clear(self) -> None:
        self._anything = False
        self._prompt: tuple[int, ...] = ()
        self._made: list[int] = []
        self._chars = 0
        self._finish: str | None = None
        self._stop: str | int | None = None

    def note(self, output: Any) -> None:
        """One of the engine's outputs: what it has made since the one before."""
        if not self._prompt_told:
            self._prompt, self._prompt_told = tuple(output.prompt_token_ids or ()), True
        for choice in output.outputs:
            self._made += choice.token_ids
            self._chars += len(choice.text)
            self._finish, self._stop = choice.finish_reason, choice.stop_reason
        self._anything = True

    def take(self) -> bytes:
        """All of it as a comment; nothing if there is nothing."""
        if not self._anything:
            return b""
        told = ToldTokens(
            prompt=self._prompt,
            made=tuple(self._made),
            chars=self._chars,
            finish=self._finish,
            stop=self._stop,
        )
        self._clear()
        return told.comment()


_notes: ContextVar[Notes | None] = ContextVar("notes", default=None)
"""Those of the request that is being answered; None if it did not ask for any."""


def noted(generate: Callable[..., AsyncGenerator[Any, None]]) -> Callable[..., AsyncGenerator[Any, None]]:
    """An engine's `generate` whose outputs are noted for requests that asked for it."""

    def watched(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        outputs, notes = generate(*args, **kwargs), _notes.get()
        return outputs if notes is None else _watched(outputs, notes)

    return watched


async def _watched(outputs: AsyncGenerator[Any, None], notes: Notes) -> AsyncGenerator[Any, None]:
    # Closed in time: it is how the engine hears that nobody wants the rest.
    async with aclosing(outputs):
        async for output in outputs:
            notes.note(output)
            yield output


class TellsTokens:
    """The engine's application, with its tokens told between the events of streams."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: _Message, receive: Any, send: _Send) -> None:
        """Serve one ASGI scope."""
        if scope["type"] != "http" or not asks_for_tokens(scope):
            await self._app(scope, receive, send)
            return
        notes, streams = Notes(), False

        async def telling(message: _Message) -> None:
            nonlocal streams
            if message["type"] == "http.response.start":
                streams = any(value.startswith(b"text/event-stream") for _, value in message["headers"])
            elif streams:
                # Noted before the surface made events of it, so that it stands before them.
                message = {**message, "body": notes.take() + message.get("body", b"")}
            await send(message)

        before = _notes.set(notes)
        try:
            await self._app(scope, receive, telling)
        finally:
            _notes.reset(before)


def asks_for_tokens(scope: _Message) -> bool:
    """Whether the router wants to be told."""
    return any(name == _ASKED and value == b"1" for name, value in scope["headers"])
