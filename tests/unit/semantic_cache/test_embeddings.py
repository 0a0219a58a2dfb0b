"""The embeddings surface: what is refused, and that both encoding formats carry the same numbers."""

import base64
import json

import numpy as np
import pytest

from cluster.config.semantic_cache import EncoderConfig
from deployments.encoder.minilm import Encoding
from deployments.semantic_cache.embeddings import EmbeddingsRequest, parse_embeddings, render_embeddings
from deployments.semantic_cache.errors import ApiError

CONFIG = EncoderConfig(inputs_max=3)


def body(**changes):
    return {"model": CONFIG.model, "input": "a", **changes}


def test_one_text_and_several():
    assert parse_embeddings(body(), CONFIG).texts == ["a"]
    assert parse_embeddings(body(input=["a", "b"]), CONFIG).texts == ["a", "b"]
    assert parse_embeddings(body(dimensions=384, user="u"), CONFIG).encoding_format == "float"
    assert parse_embeddings(body(encoding_format="base64"), CONFIG).encoding_format == "base64"


@pytest.mark.parametrize(
    ("changes", "status", "param", "code"),
    [
        ({"input": None}, 400, "input", "invalid_value"),
        ({"input": ""}, 400, "input", "invalid_value"),
        ({"input": []}, 400, "input", "invalid_value"),
        ({"input": ["a", ""]}, 400, "input", "invalid_value"),
        ({"input": ["a", None]}, 400, "input", "invalid_value"),
        ({"input": [True]}, 400, "input", "invalid_value"),
        ({"input": {"a": 1}}, 400, "input", "invalid_value"),
        ({"input": ["a"] * 4}, 400, "input", "invalid_value"),
        ({"input": [1, 2]}, 400, "input", "tokens_not_supported"),
        ({"input": [[1, 2], [3]]}, 400, "input", "tokens_not_supported"),
        ({"input": list(range(100))}, 400, "input", "tokens_not_supported"),
        ({"model": None}, 400, "model", "invalid_value"),
        ({"model": "gpt"}, 404, "model", "model_not_found"),
        ({"dimensions": 383}, 400, "dimensions", "invalid_value"),
        ({"dimensions": "384"}, 400, "dimensions", "invalid_value"),
        ({"dimensions": True}, 400, "dimensions", "invalid_value"),
        ({"encoding_format": "hex"}, 400, "encoding_format", "invalid_value"),
        ({"encoding_format": ["float"]}, 400, "encoding_format", "invalid_value"),
    ],
)
def test_refuses_and_names_the_field(changes, status, param, code):
    with pytest.raises(ApiError) as caught:
        parse_embeddings(body(**changes), CONFIG)
    assert (caught.value.status, caught.value.param, caught.value.code) == (status, param, code)


def test_both_formats_carry_the_same_numbers():
    vectors = np.linspace(-1, 1, 2 * 384, dtype=np.float32).reshape(2, 384)
    encoding = Encoding(vectors=vectors, token_counts=[3, 4])
    floats = json.loads(
        render_embeddings(EmbeddingsRequest(texts=["a", "b"], encoding_format="float"), encoding, "m")
    )
    packed = json.loads(
        render_embeddings(EmbeddingsRequest(texts=["a", "b"], encoding_format="base64"), encoding, "m")
    )
    assert floats["usage"] == packed["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    for index in range(2):
        assert floats["data"][index]["index"] == index
        unpacked = np.frombuffer(base64.b64decode(packed["data"][index]["embedding"]), dtype="<f4")
        assert np.array_equal(unpacked, vectors[index])
        assert np.array_equal(np.array(floats["data"][index]["embedding"], dtype=np.float32), vectors[index])
