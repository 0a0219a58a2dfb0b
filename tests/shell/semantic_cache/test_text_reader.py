"""What is read off a text, with the real models: its category, its language, its vector."""

import numpy as np
import pytest

from cluster.config.semantic_cache import EncoderConfig
from deployments.encoder.encoder import Encoder
from deployments.encoder.minilm import EncoderUnavailableError
from deployments.messages import TextSignals
from deployments.semantic_cache.text_reader import TextReader


@pytest.fixture
async def reader(models_are_read_once):  # noqa: ARG001
    encoder = Encoder(EncoderConfig())
    await encoder.load()
    made = TextReader(encoder)
    await made.load()
    yield made
    await encoder.close()


async def test_reads_category_language_and_vector(reader):
    read = await reader.read("May the plaintiff recover damages if the contract was breached by a minor?")
    assert (read.category, read.language) == ("law", "en")
    assert read.category_confidence > 0.5
    assert np.linalg.norm(read.embedding) == pytest.approx(1.0, abs=1e-3)
    assert TextSignals.from_header(read.to_header()).category == "law"


async def test_says_no_category_of_what_the_encoder_does_not_read(reader):
    read = await reader.read(
        "Darf der Kläger Schadensersatz verlangen, wenn ein Minderjähriger den Vertrag brach?"
    )
    assert (read.category, read.category_confidence, read.language) == ("other", 0.0, "de")


async def test_reads_nothing_before_it_has_loaded():
    with pytest.raises(EncoderUnavailableError, match="not loaded"):
        await TextReader(Encoder(EncoderConfig())).read("text")
