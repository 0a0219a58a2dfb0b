"""The OpenAI embeddings surface: what a request may say, who reads it, what the answer looks like."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from cluster.config.semantic_cache import EncoderConfig
from deployments.encoder.encoder import Encoder, EncoderBusyError
from deployments.encoder.minilm import DIMENSIONS, Encoding
from deployments.semantic_cache.errors import ApiError


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingsRequest:
    """A valid `POST /v1/embeddings`."""

    texts: list[str]
    encoding_format: Literal["float", "base64"]


def parse_embeddings(data: Mapping[str, Any], config: EncoderConfig) -> EmbeddingsRequest:
    """A request from its JSON. Fields that are not known are ignored, as OpenAI's `user` would be.

    Raises:
        ApiError: 404 if it is for another model, 400 if it is wrong in any other way.
    """
    model = data.get("model")
    if not isinstance(model, str):
        raise ApiError("'model' must be a string", param="model", code="invalid_value")
    if model != config.model:
        raise ApiError(
            f"this is the encoder {config.model!r}; it does not serve {model[:256]!r}",
            param="model",
            code="model_not_found",
            status=404,
        )
    dimensions = data.get("dimensions")
    if dimensions is not None and (isinstance(dimensions, bool) or dimensions != DIMENSIONS):
        raise ApiError(
            f"{config.model} has {DIMENSIONS} dimensions and no other number of them",
            param="dimensions",
            code="invalid_value",
        )
    encoding_format = data.get("encoding_format")
    if encoding_format not in (None, "float", "base64"):
        raise ApiError(
            "'encoding_format' must be 'float' or 'base64'", param="encoding_format", code="invalid_value"
        )
    return EmbeddingsRequest(
        texts=_texts(data.get("input"), config.inputs_max),
        encoding_format="base64" if encoding_format == "base64" else "float",
    )


async def encoded(encoder: Encoder, texts: Sequence[str]) -> Encoding:
    """Vectors of texts that a client waits for.

    Raises:
        ApiError: 503 while the encoder starts or too many texts wait for it.
    """
    if not encoder.is_loaded:
        raise ApiError("the encoder is starting", code="not_ready", status=503, retry_after_s=1)
    try:
        return await encoder.encode(texts)
    except EncoderBusyError as error:
        raise ApiError(str(error), code="overloaded", status=503, retry_after_s=2) from error


def render_embeddings(request: EmbeddingsRequest, encoding: Encoding, model: str) -> bytes:
    """The JSON of the answer."""
    rows: list[Any] = list(encoding.vectors)
    if request.encoding_format == "base64":
        rows = [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in rows]
    tokens = sum(encoding.token_counts)
    answer = {
        "object": "list",
        "data": [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)],
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def _texts(value: Any, inputs_max: int) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list):
        raise _wrong("must be a string or an array of strings")
    if not texts:
        raise _wrong("must not be empty")
    if len(texts) > inputs_max and all(isinstance(text, str) for text in texts):
        raise _wrong(f"has {len(texts)} texts; at most {inputs_max} are encoded in one request")
    for text in texts:
        if isinstance(text, int | list) and not isinstance(text, bool):
            raise ApiError(
                "'input' holds token ids; this encoder has a vocabulary of its own and takes text only",
                param="input",
                code="tokens_not_supported",
            )
        if not isinstance(text, str):
            raise _wrong("must be a string or an array of strings")
        if not text:
            raise _wrong("must not hold an empty string")
    return texts


def _wrong(problem: str) -> ApiError:
    return ApiError(f"'input' {problem}", param="input", code="invalid_value")
