"""Locust scenarios with its web page: people who chat, and programs that send long prompts.

    pip install 'locust==2.47.0'    # in an environment of its own; it is no dependency
    locust -f load_tests/locustfile.py --host http://127.0.0.1:8000

opens a page at http://127.0.0.1:8089 to start and watch. Locust's own row of a streamed request ends with its
headers, so three rows are added: `TTFT`, `TPOT` and `E2E`, in milliseconds. `TIDEMILL_API_KEY` is sent as the
key, `TIDEMILL_MODEL` is asked for (`auto` if it is not set). Load is closed: a slow server is asked less.
"""

import json
import os
import random
import time
from collections.abc import Iterator
from typing import Any

from locust import HttpUser, between, task

_WORDS = ("harbour", "tide", "stone", "river", "grain", "lantern", "bridge", "winter", "copper", "meadow")
_TURNS_MAX = 6
_TIMEOUT_S = 120.0


def _text(words: int) -> str:
    return " ".join(random.choices(_WORDS, k=words))


def _deltas(lines: Iterator[str]) -> Iterator[str]:
    """The pieces of a streamed answer."""
    for line in lines:
        if line.startswith("data: ") and line != "data: [DONE]":
            choices = json.loads(line[6:]).get("choices") or ()
            yield from (choice["delta"].get("content") or "" for choice in choices if "delta" in choice)


class _Streaming(HttpUser):  # type: ignore[misc]  # locust is not installed where types are checked
    """Sends chat completions and reports what their streams were like."""

    abstract = True

    def ask(self, name: str, messages: list[dict[str, str]], *, output_tokens: int) -> str:
        """One request; the whole answer, empty if it failed."""
        key = os.environ.get("TIDEMILL_API_KEY")
        body: dict[str, Any] = {
            "model": os.environ.get("TIDEMILL_MODEL", "auto"),
            "messages": messages,
            "max_tokens": output_tokens,
            "stream": True,
        }
        began_s = time.perf_counter()
        first_s, pieces = None, []
        with self.client.post(
            "/v1/chat/completions",
            json=body,
            headers={"authorization": f"Bearer {key}"} if key else {},
            name=f"{name}: headers",
            stream=True,
            catch_response=True,
            timeout=_TIMEOUT_S,
        ) as response:
            if response.status_code != 200:
                response.failure(f"status {response.status_code}")
                return ""
            for piece in _deltas(response.iter_lines(decode_unicode=True)):
                if piece:
                    first_s = first_s or time.perf_counter()
                    pieces.append(piece)
            if first_s is None:
                response.failure("no token came")
                return ""
        ended_s = time.perf_counter()
        answer = "".join(pieces)
        self._tell("TTFT", name, first_s - began_s, len(answer))
        if len(pieces) > 1:
            self._tell("TPOT", name, (ended_s - first_s) / (len(pieces) - 1), len(answer))
        self._tell("E2E", name, ended_s - began_s, len(answer))
        return answer

    def _tell(self, kind: str, name: str, took_s: float, size: int) -> None:
        self.environment.events.request.fire(
            request_type=kind,
            name=name,
            response_time=1000.0 * took_s,
            response_length=size,
            exception=None,
            context={},
        )


class Person(_Streaming):
    """Chats: each turn holds the conversation so far, and a pause comes after each answer."""

    weight = 4
    wait_time = between(1, 5)

    def on_start(self) -> None:
        """Begin a conversation."""
        self._messages: list[dict[str, str]] = []

    @task  # type: ignore[untyped-decorator]
    def turn(self) -> None:
        """Say something and read the answer."""
        if len(self._messages) >= 2 * _TURNS_MAX:
            self._messages = []
        self._messages.append(
            {"role": "user", "content": f"Tell me about the {_text(random.randint(3, 12))}."}
        )
        answer = self.ask("chat", self._messages, output_tokens=random.randint(16, 64))
        self._messages.append({"role": "assistant", "content": answer or "-"})


class Program(_Streaming):
    """Sends long prompts with short answers, one after the other."""

    weight = 1
    wait_time = between(0.1, 1)

    @task(3)  # type: ignore[untyped-decorator]
    def summarise(self) -> None:
        """A long text that nobody sent before."""
        prompt = f"Summarise: {random.getrandbits(32):08x} {_text(random.randint(200, 600))}"
        self.ask("summary", [{"role": "user", "content": prompt}], output_tokens=24)

    @task(1)  # type: ignore[untyped-decorator]
    def ask_again(self) -> None:
        """One of a few questions, as programs repeat themselves; a cache may answer it."""
        content = f"What is a {random.choice(_WORDS)}?"
        self.ask("repeated", [{"role": "user", "content": content}], output_tokens=24)
