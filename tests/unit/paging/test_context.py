"""The vector that stands for a request."""

import subprocess
import sys

import numpy as np
import pytest

from cluster.policy.paging.context import context_vector


def unit(seed, dimension=384):
    drawn = np.random.default_rng(seed).standard_normal(dimension)
    return drawn / np.linalg.norm(drawn)


def test_without_words_only_the_constant_speaks():
    x = context_vector((), 32)
    assert x[0] == pytest.approx(np.sqrt(0.5))
    assert not x[1:].any()


def test_its_length_is_about_one_and_likeness_is_kept():
    vectors = [unit(seed) for seed in range(200)]
    xs = np.array([context_vector(v, 32) for v in vectors])
    lengths = np.linalg.norm(xs, axis=1)
    assert lengths.mean() == pytest.approx(1.0, abs=0.05)
    near = [v + 0.2 * unit(1000 + number) for number, v in enumerate(vectors)]
    near = [v / np.linalg.norm(v) for v in near]
    moved = np.linalg.norm(xs - np.array([context_vector(v, 32) for v in near]), axis=1)
    others = np.linalg.norm(xs - np.roll(xs, 1, axis=0), axis=1)
    assert moved.max() < others.min()


def test_short_embeddings_fit():
    assert context_vector(unit(1, 4), 32).shape == (32,)


def test_every_process_makes_the_same_one():
    code = (
        "from cluster.policy.paging.context import context_vector;"
        "print(context_vector([0.1] * 384, 16).round(9).tolist())"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.strip() == str(context_vector([0.1] * 384, 16).round(9).tolist())
