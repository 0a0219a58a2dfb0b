"""How much a prompt asks for, as one number that needs no model and holds in any script.

The mean of three shares, each cut off at 1, over the first 4,096 characters:

    size        log2(1 + words) / 9                      511 words and more are 1; a word is five letters
    quantities  log2(1 + numbers) / 5                    31 numbers and more
    notation    marks / (0.3 · (marks + letters + 50))   marks are digits, punctuation and symbols

It is a number and stays one: whoever puts it into bins needs one more bin than edges. GreenServ (arXiv
2601.17551) takes 100 − Flesch reading ease, made for English from the length of words and sentences; models
fail less often at what it calls complex in two of the four tables of docs/benchmarks.md, here in one.
"""

import math
import re

_TEXT_CHARS_READ = 4096
_WORDS_LOG2_MAX = 9.0
_NUMBERS_LOG2_MAX = 5.0
_NOTATION_SHARE_MAX = 0.3
_NOTATION_LETTERS = 50
"""As if so many letters more were there: in few words, few marks say little."""
_LETTERS_PER_WORD = 5.0
_IDEOGRAPH_LETTERS = 3
"""A Han, kana or Hangul character says about as much as three letters."""

_EVERY_BYTE = bytes(range(256))
_LETTERS = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_SPACES = b" \t\n\r\v\f"
_FIRST_BYTES = bytes(range(0xC2, 0xE3))
"""In UTF-8, first bytes of the letters of alphabets beyond ASCII."""
_IDEOGRAPH_FIRST_BYTES = bytes(range(0xE3, 0xEE))
_NO_LETTER = _EVERY_BYTE.translate(None, _LETTERS + _FIRST_BYTES)
_NO_IDEOGRAPH = _EVERY_BYTE.translate(None, _IDEOGRAPH_FIRST_BYTES)
_NO_MARK = _LETTERS + _SPACES + bytes(range(0x80, 0x100))
_NUMBER = re.compile(rb"[0-9]+")


def complexity_of(text: str) -> float:
    """Complexity of a text, 0 (nothing there) to 1."""
    data = text[:_TEXT_CHARS_READ].encode()
    letters = len(data.translate(None, _NO_LETTER))
    letters += _IDEOGRAPH_LETTERS * len(data.translate(None, _NO_IDEOGRAPH))
    marks = len(data.translate(None, _NO_MARK))
    size = math.log2(1 + letters / _LETTERS_PER_WORD) / _WORDS_LOG2_MAX
    quantities = math.log2(1 + len(_NUMBER.findall(data))) / _NUMBERS_LOG2_MAX
    notation = marks / (_NOTATION_SHARE_MAX * (marks + letters + _NOTATION_LETTERS))
    return (min(size, 1.0) + min(quantities, 1.0) + min(notation, 1.0)) / 3
