"""Load on the default cluster, and streams that are looked at event by event."""

import asyncio
import json
import threading
import time
from typing import Any

import httpx

MODEL = "smollm2-135m-instruct"
STORY = (
    "The tide comes in twice a day and fills the pond behind the dam. When it has fallen again, the miller "
    "opens the sluice and the water drives the wheel. In spring the tides are high and the mill grinds for "
    "five hours; at the neap it stands still for half a week, and the miller mends his nets. "
)
QUESTIONS = [
    "How often does the tide come in?",
    "What drives the wheel?",
    "When are the tides high?",
    "What does the miller mend?",
    "Where is the pond?",
    "How long does the mill grind in spring?",
    "What happens at the neap?",
    "Who opens the sluice?",
    "What fills the pond?",
    "Write a title for this story.",
    "Is the mill by the sea?",
    "What is a sluice?",
    "Name two things the miller does.",
    "How many hours does the mill work in spring?",
    "What stands still for half a week?",
    "Why does the mill stand still?",
    "Summarise the story in five words.",
    "What comes twice a day?",
    "What is behind the dam?",
    "Which season has high tides?",
]


def long_prompt(number: int) -> str:
    """About 300 tokens that no other prompt begins with."""
    return f"Story {number}. " + STORY * 4 + QUESTIONS[number % len(QUESTIONS)]


async def load(local: Any, meanwhile: Any, *, seconds: float) -> list[tuple[bool, bool, str]]:
    """Four clients that ask, long and short, streamed and not; (streamed, whole, how it ended) for each."""
    ends: list[tuple[bool, bool, str]] = []
    stop_s = time.monotonic() + seconds

    async def one(http: httpx.AsyncClient, client: int) -> None:
        number = 0
        while time.monotonic() < stop_s:
            number += 1
            stream = client % 2 == 0
            content = long_prompt(1000 * client + number) if number % 2 else f"Hello {client} {number}"
            body = {
                "model": MODEL,
                "messages": [{"role": "user", "content": content}],
                "max_tokens": 8,
                "stream": stream,
            }
            try:
                async with http.stream("POST", f"{local.url}/v1/chat/completions", json=body) as answer:
                    text = (await answer.aread()).decode()
            except httpx.HTTPError as error:
                ends.append((stream, False, repr(error)))
                continue
            whole = answer.status_code == 200 and '"error"' not in text
            whole = whole and (not stream or text.endswith("data: [DONE]\n\n"))
            begun = '"delta"' in text
            ends.append((stream and begun, whole, f"{answer.status_code} {text[-200:]}"))

    async with httpx.AsyncClient(timeout=240) as http:
        tasks = [asyncio.create_task(one(http, client)) for client in range(4)]
        await asyncio.sleep(seconds / 4)
        await asyncio.to_thread(meanwhile)
        await asyncio.gather(*tasks)
    return ends


class NamedStream:
    """A greedy stream of `/v1/responses` or `/v1/messages`, read in a thread of its own."""

    def __init__(self, local: Any, path: str, text: str) -> None:
        self._url = local.url + path
        self._body: dict[str, Any] = {"model": MODEL, "temperature": 0, "stream": True}
        if path.endswith("messages"):
            self._body |= {"messages": [{"role": "user", "content": text}], "max_tokens": 60}
        else:
            self._body |= {"input": text, "max_output_tokens": 60}
        self.text = ""
        self.decision_id = ""
        self.others: list[Any] = []
        """All events but those with text."""
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        headers = {"x-tidemill-cache": "off"}
        with httpx.stream("POST", self._url, json=self._body, headers=headers, timeout=240) as answer:
            self.decision_id = answer.headers["x-tidemill-decision-id"]
            for line in answer.iter_lines():
                event = json.loads(line[6:]) if line.startswith("data: ") else {"type": None}
                if event["type"] in ("content_block_delta", "response.output_text.delta"):
                    delta = event["delta"]
                    self.text += delta if isinstance(delta, str) else delta["text"]
                elif event["type"] is not None:
                    self.others.append(event)

    def whole(self) -> "NamedStream":
        """The stream when it has ended."""
        self._thread.join(240)
        assert not self._thread.is_alive()
        return self

    @property
    def usage(self) -> tuple[int, int]:
        """Tokens of prompt and answer."""
        (found,) = [e.get("response", e)["usage"] for e in self.others if e["type"] in _TELL_USAGE]
        # What was cached counts apart in messages; another replica has cached something else.
        return found["input_tokens"] + found.get("cache_read_input_tokens", 0), found["output_tokens"]


_TELL_USAGE = ("message_delta", "response.completed")


def streamed(
    local: Any, prompt: str, *, before: Any = None, meanwhile: Any = None
) -> tuple[str, list[Any], str]:
    """Text, events and decision of a greedy chat stream; one thing done at its begin, one after a third."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": 60,
        "min_tokens": 60,
        "temperature": 0,
        "stop": ["no such words"],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    headers = {"x-tidemill-cache": "off"}
    lines: list[str] = []
    url = f"{local.url}/v1/chat/completions"
    with httpx.stream("POST", url, json=body, headers=headers, timeout=240) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: "):
                lines.append(line[6:])
            if len(lines) == 5 and before is not None:
                before()
                before = None
            if len(lines) == 20 and meanwhile is not None:
                meanwhile()
                meanwhile = None
    assert lines[-1] == "[DONE]", lines[-3:]
    events = [json.loads(line) for line in lines[:-1]]
    text = "".join(c["delta"].get("content") or "" for e in events for c in e["choices"])
    return text, events, answer.headers["x-tidemill-decision-id"]
