"""Reasons not to serve a near match that no similarity shows: numbers, negation, opposites, names, code.

They exist because a sentence encoder's cosine cannot tell "enable" from "disable" (routing_and_cache
measurements: cos .908 against .890 of a true paraphrase), so that no threshold is safe. Every guard errs
towards refusing: a refused hit costs one computation, a wrong hit costs trust.
"""

import itertools
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from cluster.policy.semantic_cache.lexicon import (
    EXCHANGED,
    JOINED,
    NEGATING_PREFIXES,
    NEGATORS,
    NUMBER_WORDS,
    OPPOSITES,
    QUESTION_WORDS,
    RELATORS,
    STOPWORDS,
    SYNONYMS,
)

_SHARED_MIN = 0.6
"""Part of the shorter text's words that texts share of which one denies what the other says."""
_PLACE_WORDS_MAX = 2
"""Words in the one place where two texts differ."""
TEXT_CHARS_MAX = 600
"""The encoder reads 256 tokens, of code some 600 characters: what is beyond them must be equal."""
_WORD = re.compile(r"[a-z]\+\+|[a-z]#|[^\W_]+(?:'[a-z]+)?", re.IGNORECASE)
_NUMBER = re.compile(r"(?<![\w.])[-−]?\d[\d,]*(?:\.\d+)?|\d+")
_CODE = re.compile(
    r"`[^`]+`|(?<=\s)--?[a-zA-Z][\w-]*|\b[a-z_]\w+(?:\.[a-z_]\w+)+|\b\w+\(\)|\b[a-zA-Z]\w*_\w+\b|\b_\w+"
    r"|\b[a-z]+[A-Z]\w*\b|[=!<>]=|&&|\|\||(?<=\w\s)[-+*/%^<>](?=\s\w)|(?:/[\w.-]+){2,}|\b0x[0-9a-fA-F]+\b"
    r"|[$@]\w+"
)
_CAPITALISED = re.compile(r"\b[A-Z][\w'\u2019.-]*")
_SENTENCE_START = re.compile(r"(?:^|[.!?:;\n]\s*)[\"'(]*$")


class Guard(StrEnum):
    """What forbids a near match (label of `tidemill_cache_guard_refusals_total`)."""

    LANGUAGE = "language"
    NUMBERS = "numbers"
    CODE = "code"
    NEGATION = "negation"
    POLARITY = "polarity"
    QUESTION = "question"
    ENTITIES = "entities"
    ROLES = "roles"
    CONTENT = "content"


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFacts:
    """What of a text must not differ from another one that gets the same answer."""

    language: str
    words: tuple[str, ...]
    numbers: tuple[float, ...]
    code: frozenset[str]
    entities: frozenset[str]
    negations: int
    poles: frozenset[tuple[int, int]]
    """(axis, side) of `OPPOSITES`."""
    exchanged: frozenset[str]
    """Words of `EXCHANGED`."""
    question: str
    """The first word of `QUESTION_WORDS`; empty if there is none."""
    related: tuple[tuple[str, str], ...]
    """Words of `RELATORS`, each with what stands behind it."""
    content: tuple[str, ...]
    """Stems of the words that carry meaning, in their order."""
    tail: str
    """What is beyond `TEXT_CHARS_MAX`."""


def facts_of(text: str, *, language: str = "und") -> TextFacts:
    """Reads a text once; comparing facts is then a matter of microseconds."""
    begin = text[:TEXT_CHARS_MAX]
    words = _joined([word.lower() for word in _WORD.findall(begin.replace("\u2019", "'"))])
    return TextFacts(
        language=language,
        words=tuple(words),
        numbers=_numbers(begin, words),
        code=frozenset(match.strip() for match in _CODE.findall(begin)),
        entities=_entities(begin),
        negations=sum(_negates(word) for word in words),
        poles=frozenset(pole for word in words for pole in _POLES.get(word, _POLES.get(stem(word), ()))),
        exchanged=frozenset(word for word in words if word in EXCHANGED),
        question=next((word for word in words if word in QUESTION_WORDS), ""),
        related=tuple(
            (word, _meaning(after)) for word, after in itertools.pairwise(words) if word in RELATORS
        ),
        content=tuple(_meaning(word) for word in words if _carries_meaning(word)),
        tail=text[TEXT_CHARS_MAX:],
    )


def conflict(asked: TextFacts, stored: TextFacts) -> Guard | None:
    """The first reason why the answer to `stored` must not be given to `asked`; None if there is none."""
    return next((guard for guard, forbids in _GUARDS if forbids(asked, stored)), None)


def stem(word: str) -> str:
    """A word without its commonest endings: enough to see two forms of one word, no linguistics."""
    word = word.removesuffix("'s").removesuffix("s'")
    for ending, kept in (
        ("ies", "y"),
        ("ied", "y"),
        ("ing", ""),
        ("ed", ""),
        ("es", ""),
        ("s", ""),
        ("ly", ""),
    ):
        if word.endswith(ending) and len(word) - len(ending) + len(kept) >= 3 and not word.endswith("ss"):
            word = word.removesuffix(ending) + kept
            break
    if len(word) > 3 and word[-1] == word[-2] and word[-1] != "s":
        word = word[:-1]
    return word.removesuffix("e") if len(word) > 3 else word


def _joined(words: list[str]) -> list[str]:
    joined: list[str] = []
    for word in words:
        if joined and (joined[-1], word) in _JOINED:
            joined[-1] += f"_{word}"
        else:
            joined.append(word)
    return joined


def _numbers(text: str, words: list[str]) -> tuple[float, ...]:
    """All numbers in their order of size; `one` alone is mostly a pronoun and does not count."""
    found = [_value(match) for match in _NUMBER.findall(text)]
    found += [float(NUMBER_WORDS[word]) for word in words if word in NUMBER_WORDS and word != "one"]
    return tuple(sorted(found))


def _value(digits: str) -> float:
    return float(digits.replace(",", "").replace("−", "-"))


def _negates(word: str) -> bool:
    return word.endswith("n't") or word.replace("'", "") in NEGATORS


def _carries_meaning(word: str) -> bool:
    return word.partition("'")[0] not in STOPWORDS and not word.isdecimal() and not _negates(word)


def _meaning(word: str) -> str:
    form = stem(word)
    return _CANONICAL.get(word, _CANONICAL.get(form, form))


def _entities(text: str) -> frozenset[str]:
    """Capitalised words inside sentences, and those that are more than a capital anywhere."""
    found: set[str] = set()
    for match in _CAPITALISED.finditer(text):
        word = match.group().rstrip(".'\u2019-")
        shouted = len(word) > 1 and any(letter.isupper() or letter.isdigit() for letter in word[1:])
        if word.lower() in STOPWORDS or (word == "I"):
            continue
        if shouted or not _SENTENCE_START.search(text[: match.start()]):
            found.add(stem(word.lower()))
    return frozenset(found)


def _names_apart(asked: TextFacts, stored: TextFacts) -> bool:
    """Whether each text has a name that the other lacks, or only one has and the rest of it is in the other.

    A name that one text has to itself may be of no weight where the texts differ in other words as well: what
    they mean is then the encoder's business.
    """
    mine, theirs = set(asked.content), set(stored.content)
    more = (asked.entities - _stems(stored)) | (asked.exchanged - stored.exchanged)
    less = (stored.entities - _stems(asked)) | (stored.exchanged - asked.exchanged)
    if more and less:
        return True
    return (bool(more) and theirs <= mine) or (bool(less) and mine <= theirs)


def _other_language(asked: TextFacts, stored: TextFacts) -> bool:
    return asked.language != stored.language and "und" not in {asked.language, stored.language}


def _opposed(asked: TextFacts, stored: TextFacts) -> bool:
    for axis in {axis for axis, _ in asked.poles} & {axis for axis, _ in stored.poles}:
        if {side for a, side in asked.poles if a == axis} != {side for a, side in stored.poles if a == axis}:
            return True
    mine, theirs = frozenset(asked.words), frozenset(stored.words)
    return any(_negated_form(word, theirs) for word in mine - theirs) or any(
        _negated_form(word, mine) for word in theirs - mine
    )


def _negated_form(word: str, others: frozenset[str]) -> bool:
    return any(
        word.startswith(prefix) and len(word) - len(prefix) >= 3 and word.removeprefix(prefix) in others
        for prefix in NEGATING_PREFIXES
    )


def _asks_for_something_else(asked: TextFacts, stored: TextFacts) -> bool:
    return asked.question != stored.question and bool(asked.question and stored.question)


def _denies(asked: TextFacts, stored: TextFacts) -> bool:
    """Whether only one text negates, in texts that share most of their words."""
    if asked.negations == stored.negations:
        return False
    mine, theirs = set(asked.content), set(stored.content)
    return len(mine & theirs) >= _SHARED_MIN * min(len(mine), len(theirs))


def _differ_in_substance(asked: TextFacts, stored: TextFacts) -> bool:
    """Whether the texts are word for word the same but for one place where meaning was exchanged or added.

    Such pairs look most alike to an encoder and least often mean the same; a real paraphrase changes more
    than one place.
    """
    if asked.tail != stored.tail:
        return True
    mine, theirs = asked.words, stored.words
    start = _alike(mine, theirs)
    mine, theirs = mine[start:], theirs[start:]
    end = _alike(mine[::-1], theirs[::-1])
    mine, theirs = mine[: len(mine) - end], theirs[: len(theirs) - end]
    if not start + end or max(len(mine), len(theirs)) > _PLACE_WORDS_MAX:
        return False
    return {_meaning(w) for w in mine if _carries_meaning(w)} != {
        _meaning(w) for w in theirs if _carries_meaning(w)
    }


def _alike(mine: tuple[str, ...], theirs: tuple[str, ...]) -> int:
    """How many words at the beginning are the same."""
    pairs = zip(mine, theirs, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _turned_round(asked: TextFacts, stored: TextFacts) -> bool:
    """Whether the same words stand in each other's place: who does what to whom has changed."""
    if asked.content == stored.content or Counter(asked.content) != Counter(stored.content):
        return False
    places = [
        place
        for place, (mine, theirs) in enumerate(zip(asked.content, stored.content, strict=True))
        if mine != theirs
    ]
    # Neighbours that change places are mostly a compound: "account password", "password of the account".
    return (len(places) == 2 and places[1] - places[0] > 1) or _related_otherwise(asked, stored)


def _related_otherwise(asked: TextFacts, stored: TextFacts) -> bool:
    """Whether something else stands behind a word that both texts have."""
    mine, theirs = dict(asked.related), dict(stored.related)
    return any(mine[relator] != theirs[relator] for relator in mine.keys() & theirs.keys())


def _stems(facts: TextFacts) -> set[str]:
    return {stem(word) for word in facts.words}


_JOINED = frozenset(JOINED)
_POLES: dict[str, tuple[tuple[int, int], ...]] = {}
for _axis, _sides in enumerate(OPPOSITES):
    for _side, _words in enumerate(_sides):
        for _word in _words:
            for _form in {_word, stem(_word)}:
                _POLES[_form] = (*_POLES.get(_form, ()), (_axis, _side))

_CANONICAL = {form: group[0] for group in SYNONYMS for word in group for form in (word, stem(word))}

_GUARDS: tuple[tuple[Guard, Callable[[TextFacts, TextFacts], bool]], ...] = (
    (Guard.LANGUAGE, _other_language),
    (Guard.NUMBERS, lambda asked, stored: asked.numbers != stored.numbers),
    (Guard.CODE, lambda asked, stored: asked.code != stored.code),
    (Guard.NEGATION, _denies),
    (Guard.POLARITY, _opposed),
    (Guard.QUESTION, _asks_for_something_else),
    (Guard.ENTITIES, _names_apart),
    (Guard.CONTENT, _differ_in_substance),
    (Guard.ROLES, _turned_round),
)
"""In the order in which they are easiest to explain."""
