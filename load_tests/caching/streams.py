"""Streams of prompts for the semantic cache, each prompt with the answer that is right for it.

They exist because a near match can only be called right or wrong where somebody has said which prompts mean
the same: duplicates in Quora's question pairs, utterances of one intent in BANKING77 and CLINC150. Same
intent is not always same answer, and duplicates are labelled by people, so a few per cent of the labels are
wrong in themselves. Formats: load_tests/data.md.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from load_tests.text_files import FileError, csv_rows, json_document, json_rows, number_of

_MEMBERS_MIN = 4
"""A question asked so often makes hits; the rest of a file makes misses that look like hits."""
_MEMBERS_MAX = 12
_CLINC_PARTS = ("train", "val", "oos_train", "oos_val")
_REPEATED_SHARE = 0.55
"""Part of a sample of question pairs that belongs to repeated questions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One arrival."""

    text: str
    answer: str
    """Prompts with the same one are answered the same."""
    category: str


def sample(file: Path, form: str, *, texts_max: int, seed: int, domains: Path | None = None) -> list[Prompt]:
    """Different prompts of a file, drawn by seed.

    Raises:
        FileError: a file cannot be read, or has another form.
        ValueError: the format is not known.
    """
    draw = random.Random(seed)
    if form == "qqp":
        return _question_pairs(file, texts_max, draw)
    readers: dict[str, Callable[[], list[Prompt]]] = {
        "banking77": lambda: list(_banking(file)),
        "clinc150": lambda: list(_clinc(file, domains)),
    }
    if form not in readers:
        raise ValueError(f"{form!r} is not one of qqp, {', '.join(readers)}")
    prompts = list({prompt.text: prompt for prompt in readers[form]()}.values())
    return draw.sample(prompts, min(texts_max, len(prompts)))


def in_order(prompts: Sequence[Prompt], seed: int) -> list[int]:
    """Indices of the prompts in the order in which they arrive."""
    order = list(range(len(prompts)))
    random.Random(seed).shuffle(order)
    return order


def _question_pairs(file: Path, texts_max: int, draw: random.Random) -> list[Prompt]:
    """Repeated questions, and around them questions that were labelled as not the same."""
    duplicates, others = _Groups(), []
    for number, row in json_rows(file, ("text_a", "text_b", "label")):
        if number_of(row["label"], f"{file}: line {number}: label") > 0:
            duplicates.join(row["text_a"], row["text_b"])
        else:
            others.append((row["text_a"], row["text_b"]))
    members = duplicates.members()
    repeated = sorted(root for root, texts in members.items() if len(texts) >= _MEMBERS_MIN)
    draw.shuffle(repeated)
    chosen: dict[str, str] = {}
    for root in repeated:
        if len(chosen) >= texts_max * _REPEATED_SHARE:
            break
        texts = sorted(members[root])
        draw.shuffle(texts)
        chosen |= dict.fromkeys(texts[:_MEMBERS_MAX], root)
    near = [pair for pair in others if (pair[0] in chosen) != (pair[1] in chosen)]
    draw.shuffle(others)
    for text in (text for pair in near + others for text in pair):
        if len(chosen) >= texts_max:
            break
        chosen.setdefault(text, duplicates.root(text))
    return [Prompt(text=text, answer=f"qqp:{root}", category="questions") for text, root in chosen.items()]


def _banking(file: Path) -> Iterator[Prompt]:
    for _, row in csv_rows(file, ("text", "category")):
        text = " ".join(row["text"].split())
        yield Prompt(text=text, answer=f"banking77:{row['category']}", category="bank_support")


def _clinc(file: Path, domains: Path | None) -> Iterator[Prompt]:
    """Out-of-scope utterances each have an answer of their own: nothing else is right for them."""
    parts = json_document(file)
    there = [name for name in _CLINC_PARTS if isinstance(parts, dict) and isinstance(parts.get(name), list)]
    if not any(parts[name] for name in there):
        raise FileError(f"{file}: expected an object with lists {', '.join(_CLINC_PARTS)}")
    of_intent: dict[str, str] = {}
    if domains is not None:
        listed = json_document(domains)
        if not isinstance(listed, dict):
            raise FileError(f"{domains}: expected an object with the intents of each domain")
        of_intent = {intent: domain for domain, intents in listed.items() for intent in intents}
    for name in there:
        for text, intent in parts[name]:
            if intent == "oos":
                yield Prompt(text=text, answer=f"oos:{text}", category="out_of_scope")
            else:
                category = of_intent.get(intent, "assistant")
                yield Prompt(text=text, answer=f"clinc150:{intent}", category=category)


class _Groups:
    """Texts that mean the same, transitively."""

    def __init__(self) -> None:
        self._parents: dict[str, str] = {}

    def root(self, text: str) -> str:
        parent = self._parents.setdefault(text, text)
        while parent != text:
            text, parent = parent, self._parents[parent]
        return text

    def join(self, one: str, other: str) -> None:
        self._parents[self.root(one)] = self.root(other)

    def members(self) -> dict[str, list[str]]:
        groups: dict[str, list[str]] = {}
        for text in list(self._parents):
            groups.setdefault(self.root(text), []).append(text)
        return groups
