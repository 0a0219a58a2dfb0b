"""The sentence encoder for an event loop: one thread of its own, fair turns, a bound on what waits."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from cluster.config.semantic_cache import EncoderConfig
from deployments.encoder.minilm import DIMENSIONS, EncoderUnavailableError, Encoding, MiniLm

_BACKLOG_REQUESTS = 4
"""Texts wait for the encoder up to this many requests of full size."""


class EncoderBusyError(Exception):
    """More texts wait than are allowed to; the caller should come back later."""


class Encoder:
    """One inference session with a thread of its own, because ONNX Runtime blocks its caller."""

    def __init__(self, config: EncoderConfig) -> None:
        self._config = config
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="encoder")
        self._model: MiniLm | None = None
        self._texts_waiting = 0
        self._texts_encoded = 0

    @property
    def is_loaded(self) -> bool:
        """Whether `encode` can be called."""
        return self._model is not None

    @property
    def texts_encoded(self) -> int:
        """Texts encoded since the start."""
        return self._texts_encoded

    async def load(self) -> None:
        """Reads tokenizer and weights; about half a second, away from the event loop.

        Raises:
            EncoderUnavailableError: A package is missing or its file cannot be read.
        """
        self._model = await asyncio.get_running_loop().run_in_executor(
            self._executor, lambda: MiniLm(threads=self._config.threads)
        )

    async def encode(self, texts: Sequence[str]) -> Encoding:
        """Vectors of texts, `batch_max` at a time; other callers' batches come in between.

        Raises:
            EncoderUnavailableError: `load` has not been called.
            EncoderBusyError: Too many texts of other callers wait already.
        """
        if self._model is None:
            raise EncoderUnavailableError("the encoder is not loaded yet")
        waiting_max = _BACKLOG_REQUESTS * self._config.inputs_max
        if self._texts_waiting and self._texts_waiting + len(texts) > waiting_max:
            raise EncoderBusyError(f"{self._texts_waiting} texts wait for the encoder already")
        self._texts_waiting += len(texts)
        try:
            return await self._encode_in_batches(self._model, texts)
        finally:
            self._texts_waiting -= len(texts)

    async def close(self) -> None:
        """Ends the thread after the batch it works on."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def _encode_in_batches(self, model: MiniLm, texts: Sequence[str]) -> Encoding:
        loop = asyncio.get_running_loop()
        vectors = np.zeros((len(texts), DIMENSIONS), dtype=np.float32)
        token_counts = [0] * len(texts)
        # A batch is padded to its longest text, so texts of like length belong together.
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        for start in range(0, len(order), self._config.batch_max):
            indices = order[start : start + self._config.batch_max]
            batch = [texts[index] for index in indices]
            encoding = await loop.run_in_executor(self._executor, model.encode, batch)
            vectors[indices] = encoding.vectors
            for index, count in zip(indices, encoding.token_counts, strict=True):
                token_counts[index] = count
            self._texts_encoded += len(indices)
        return Encoding(vectors=vectors, token_counts=token_counts)
