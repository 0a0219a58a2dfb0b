"""`tidemill chat`: a conversation in the terminal, or one line after the other from a pipe."""

import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
from rich.console import Console

from operators.cli.console import CliError
from operators.cli.gateway_client import api_key, bearer, first_model, gateway_url, refusal

_CONNECT_TIMEOUT_S = 5.0
_READ_TIMEOUT_S = 300.0
_MESSAGES_MAX = 200
"""Older ones are forgotten; the model's context ends long before."""
_HELP = "/reset forgets the conversation, /exit ends it; Ctrl-C aborts an answer"


@dataclass
class Conversation:
    """The messages so far, the system prompt apart."""

    system: str | None = None
    messages: list[dict[str, str]] = field(default_factory=list)

    def request(self, model: str, text: str) -> dict[str, Any]:
        """The body that asks for an answer to `text`."""
        head = [{"role": "system", "content": self.system}] if self.system else []
        asked = {"role": "user", "content": text}
        return {"model": model, "stream": True, "messages": [*head, *self.messages, asked]}

    def remember(self, text: str, answer: str) -> None:
        """Add a question and its answer."""
        self.messages += [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
        del self.messages[: max(0, len(self.messages) - _MESSAGES_MAX)]


def chat(*, model: str | None, system: str | None, url: str | None) -> int:
    """Talk until /exit or the end of the input.

    Returns:
        The exit status: 1 if the last question from a pipe got no answer.

    Raises:
        CliError: nothing runs here, or there is no such model.
    """
    base_url = gateway_url(url, os.environ)
    timeout = httpx.Timeout(_READ_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S)
    key = api_key(os.environ)
    chosen = model or first_model(base_url, key)
    with httpx.Client(base_url=base_url, timeout=timeout, headers=bearer(key), trust_env=False) as client:
        interactive = sys.stdin.isatty()
        # The dim lines about an answer go to standard error, so that a pipe gets answers alone.
        dim = Console(stderr=not interactive, style="dim", highlight=False, markup=False, soft_wrap=True)
        if interactive:
            dim.print(f"{chosen} at {base_url}; {_HELP}")
        return _talk(client, chosen, Conversation(system=system), dim, interactive=interactive)


def _talk(
    client: httpx.Client, model: str, conversation: Conversation, dim: Console, *, interactive: bool
) -> int:
    failed = False
    for line in _lines(interactive=interactive):
        text = line.strip()
        if text in {"/exit", "/quit"}:
            break
        if text == "/reset":
            conversation.messages.clear()
            dim.print("forgotten")
        elif text == "/help":
            dim.print(_HELP)
        elif text:
            failed = not _answer(client, model, conversation, text, dim, interactive=interactive)
    return int(failed and not interactive)


def _lines(*, interactive: bool) -> Iterator[str]:
    """Lines from the terminal or the pipe, until its end."""
    if not interactive:
        yield from sys.stdin
        return
    while True:
        try:
            yield input("> ")
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print("  (/exit ends the conversation)")


def _answer(
    client: httpx.Client,
    model: str,
    conversation: Conversation,
    text: str,
    dim: Console,
    *,
    interactive: bool,
) -> bool:
    """Stream one answer to standard output; whether it came whole."""
    parts: list[str] = []
    began_at_s = time.monotonic()
    first_at_s: float | None = None
    try:
        with client.stream(
            "POST", "/v1/chat/completions", json=conversation.request(model, text)
        ) as response:
            if response.status_code != 200:
                response.read()
                dim.print(refusal(response), style="red")
                return False
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                dim.print("no stream of events came; is the address right?", style="red")
                return False
            for part in deltas(response.iter_lines()):
                first_at_s = first_at_s or time.monotonic()
                parts.append(part)
                print(part, end="", flush=True)
    except CliError as error:
        print()
        dim.print(str(error), style="red")
        return False
    except httpx.HTTPError as error:
        print()
        dim.print(f"the connection failed: {type(error).__name__}: {error}", style="red")
        return False
    except KeyboardInterrupt:
        print()
        dim.print("aborted; not remembered")
        if not interactive:
            raise
        return False
    print()
    conversation.remember(text, "".join(parts))
    dim.print(_about(response.headers, began_at_s, first_at_s))
    return True


def deltas(lines: Iterator[str]) -> Iterator[str]:
    """The text in a chat completion's server-sent events.

    Raises:
        CliError: the stream carries an error.
    """
    for line in lines:
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            return
        try:
            event = json.loads(data)
        except ValueError:
            continue
        if "error" in event:
            raise CliError(f"the answer broke off: {event['error'].get('message', event['error'])}")
        for choice in event.get("choices", []):
            delta = choice.get("delta", {})
            if text := delta.get("content") or delta.get("reasoning_content"):
                yield str(text)


def _about(headers: httpx.Headers, began_at_s: float, first_at_s: float | None) -> str:
    parts = [
        f"{name} {headers[f'x-tidemill-{name}']}"
        for name in ("path", "replica", "cache")
        if f"x-tidemill-{name}" in headers
    ]
    if first_at_s is not None:
        parts.append(f"TTFT {first_at_s - began_at_s:.2f} s")
    if decision := headers.get("x-tidemill-decision-id"):
        parts.append(f"tidemill explain {decision}")
    return "[" + " · ".join(parts) + "]"
