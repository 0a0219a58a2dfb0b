"""Text signals survive the way through a header, short and exact to a step."""

import math
import random

import pytest

from deployments.messages import TextSignals


def test_there_and_back():
    chance = random.Random(4)
    raw = [chance.gauss(0, 1) for _ in range(384)]
    length = math.sqrt(sum(x * x for x in raw))
    sent = TextSignals(
        embedding=tuple(x / length for x in raw), category="math", category_confidence=0.75, language="en"
    )
    header = sent.to_header()
    assert header.isascii()
    assert "\n" not in header
    assert len(header) < 1200
    found = TextSignals.from_header(header)
    assert found.embedding == pytest.approx(sent.embedding, abs=0.5e-4)
    assert (found.category, found.category_confidence, found.language) == ("math", 0.75, "en")
    assert TextSignals.from_header(found.to_header()) == found


@pytest.mark.parametrize(
    "value", ["", "{}", "[]", '{"embedding": "!"}', '{"embedding": "AAAA", "color": "red"}']
)
def test_what_is_none_is_refused(value):
    with pytest.raises((ValueError, TypeError, KeyError)):
        TextSignals.from_header(value)
