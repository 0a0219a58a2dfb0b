"""Reads a text once for everybody who wants to know what it is about: embedding, category, language."""

import asyncio

from deployments.encoder.encoder import Encoder
from deployments.encoder.language import LanguageDetector
from deployments.messages import TextSignals


class TextReader:
    """The encoder with what is fitted on top of it."""

    def __init__(self, encoder: Encoder) -> None:
        """Take an encoder, which others use as well."""
        self._encoder = encoder
        self._languages: LanguageDetector | None = None

    async def load(self) -> None:
        """Reads the models, away from the event loop."""
        self._languages = await asyncio.to_thread(LanguageDetector)

    async def read(self, text: str) -> TextSignals:
        """What the text is about.

        Raises:
            EncoderBusyError: too many texts wait.
        """
        encoding = await self._encoder.encode([text])
        language = "und" if self._languages is None else self._languages.language_of(text)
        return TextSignals(
            embedding=tuple(encoding.vectors[0].tolist()),
            category="other",
            category_confidence=0.0,
            language=language,
        )
