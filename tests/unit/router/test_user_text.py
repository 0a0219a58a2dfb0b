"""What the user said last is found on every surface; system prompts and what tools returned are not it."""

import pytest

from cluster.entities.workload import Surface
from deployments.router.generation.user_text import TEXT_CHARS_MAX, last_user_text, user_texts

TALK = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "first"},
    {"role": "assistant", "content": "yes"},
    {"role": "user", "content": [{"type": "text", "text": "second"}, {"type": "image_url", "image_url": {}}]},
    {"role": "tool", "content": "42"},
]


@pytest.mark.parametrize(
    ("surface", "body", "texts"),
    [
        (Surface.CHAT, {"messages": TALK}, ["first", "second"]),
        (Surface.MESSAGES, {"system": "be brief", "messages": TALK[1:4]}, ["first", "second"]),
        (Surface.RESPONSES, {"input": "alone"}, ["alone"]),
        (Surface.RESPONSES, {"input": TALK[1:4]}, ["first", "second"]),
        (Surface.COMPLETIONS, {"prompt": "alone"}, ["alone"]),
        (Surface.COMPLETIONS, {"prompt": ["one", "two"]}, ["two"]),
        (Surface.COMPLETIONS, {"prompt": [1, 2, 3]}, []),
        (Surface.CHAT, {"messages": [{"role": "user", "content": None}, "odd"]}, []),
        (Surface.CHAT, {}, []),
    ],
)
def test_texts_of_the_user(surface, body, texts):
    assert user_texts(body, surface) == texts
    assert last_user_text(body, surface) == (texts[-1] if texts else "")


def test_a_long_text_is_cut():
    body = {"prompt": "x" * (TEXT_CHARS_MAX + 1)}
    assert len(last_user_text(body, Surface.COMPLETIONS)) == TEXT_CHARS_MAX
