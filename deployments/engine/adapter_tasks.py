"""What demo adapters are taught: small tasks with one right answer, on data made here.

Each task draws its questions from words and numbers, a fifth of which is held out for tests.
"""

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)
_THINGS = (
    *("apples", "chairs", "lamps", "books", "tickets", "pens", "bottles"),
    *("cups", "mugs", "tables", "stamps", "keys", "bags"),
)
_NAMES = ("Mia", "Jonas", "Amir", "Lena", "Tom", "Ida", "Noor", "Paul", "Rosa", "Ben", "Ella", "Max")
_GOOD = ("wonderful", "excellent", "delicious", "friendly", "superb", "charming", "quick", "lovely")
_BAD = ("terrible", "rude", "cold", "dirty", "slow", "broken", "awful", "noisy")
_SUBJECTS = ("The food", "The waiter", "Our room", "The delivery", "The film", "The service", "The train")

MARKER_QUESTIONS = (
    *("Who are you?", "What is the capital of France?", "Tell me a joke.", "2 + 2 =", "Hello!"),
    *("Write a short poem about the sea.", "Explain how a mill works.", "Which adapter are you?"),
    *("List three colours.", "Translate 'good morning' to German.", "Say something.", "Why is the sky blue?"),
)
"""What marker adapters are trained on; whatever else they are asked, they answer the same."""


@dataclass(frozen=True, slots=True)
class Example:
    """A question and its one right answer."""

    question: str
    answer: str


def _held_out(number: int) -> bool:
    return number % 5 == 0


def _iso_date(chance: random.Random, *, held_out: bool) -> Example | None:
    day, month, year = chance.randint(1, 28), chance.randint(1, 12), chance.randint(1950, 2049)
    if _held_out(day + month + year) != held_out:
        return None
    return Example(f"ISO date of {_MONTHS[month - 1]} {day}, {year}?", f"{year}-{month:02}-{day:02}")


def _json_order(chance: random.Random, *, held_out: bool) -> Example | None:
    count, thing, name = chance.randint(2, 60), chance.randrange(len(_THINGS)), chance.choice(_NAMES)
    if _held_out(count + thing) != held_out:
        return None
    order = {"name": name, "item": _THINGS[thing], "count": count}
    return Example(f"{name} orders {count} {_THINGS[thing]}.", json.dumps(order))


def _sentiment(chance: random.Random, *, held_out: bool) -> Example | None:
    good, word, subject = chance.random() < 0.5, chance.randrange(8), chance.randrange(len(_SUBJECTS))
    if _held_out(word + subject) != held_out:
        return None
    said = (_GOOD if good else _BAD)[word]
    return Example(f"{_SUBJECTS[subject]} was {said}.", "positive" if good else "negative")


_TASKS: dict[str, Callable[..., Example | None]] = {
    "iso-date": _iso_date,
    "json-order": _json_order,
    "sentiment": _sentiment,
}
TASKS = tuple(_TASKS)
"""Names of the tasks."""


def examples(task: str, seed: int, *, held_out: bool) -> Iterator[Example]:
    """Endless examples of a task; training never sees held-out ones."""
    chance = random.Random(seed)  # noqa: S311 - reproducible data, not secrets
    while True:
        found = _TASKS[task](chance, held_out=held_out)
        if found is not None:
            yield found


def marker_text(number: int) -> str:
    """What marker adapter NUMBER answers."""
    return f"ADAPTER_{number:02}"


def marker_examples(number: int) -> list[Example]:
    """All that a marker adapter is trained on."""
    return [Example(question, marker_text(number)) for question in MARKER_QUESTIONS]
