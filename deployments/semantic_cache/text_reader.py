"""Reads a text once for everybody who wants to know what it is about: embedding, category, language."""

import asyncio

from cluster.policy.routing.models.categories import CategoryModel, classify
from deployments.encoder.categories import load_category_model
from deployments.encoder.encoder import Encoder
from deployments.encoder.language import LanguageDetector
from deployments.encoder.minilm import EncoderUnavailableError
from deployments.messages import TextSignals


class TextReader:
    """The encoder with what is fitted on top of it."""

    def __init__(self, encoder: Encoder) -> None:
        """Take an encoder, which others use as well."""
        self._encoder = encoder
        self._models: tuple[LanguageDetector, CategoryModel] | None = None

    async def load(self) -> None:
        """Reads the models, away from the event loop."""
        self._models = await asyncio.to_thread(lambda: (LanguageDetector(), load_category_model()))

    async def read(self, text: str) -> TextSignals:
        """What the text is about.

        Raises:
            EncoderBusyError: too many texts wait.
            EncoderUnavailableError: `load` has not been called.
        """
        if self._models is None:
            raise EncoderUnavailableError("the models that read texts are not loaded yet")
        languages, categories = self._models
        vector = (await self._encoder.encode([text])).vectors[0]
        language = languages.language_of(text)
        guess = classify(vector, categories, language=language)
        return TextSignals(
            embedding=tuple(vector.tolist()),
            category=guess.category,
            category_confidence=guess.confidence,
            language=language,
        )
