"""The graph gives what a scan gives, forgets what is removed, and lives beside the encoder's runtime."""

import subprocess
import sys

import numpy as np
import pytest

from deployments.encoder.graph_index import GraphIndex

DIMENSIONS = 48


def rows(count, seed):
    vectors = np.random.default_rng(seed).normal(size=(count, DIMENSIONS)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def vectors():
    return rows(600, 1)


@pytest.fixture
def graph(vectors):
    index = GraphIndex(DIMENSIONS, scan_max=100)
    for key, vector in enumerate(vectors):
        index.add(key, vector)
    return index


def test_what_is_near_is_found_with_its_true_cosine(graph, vectors):
    found = 0
    for key, noise in enumerate(rows(600, 2)):
        asked = vectors[key] + 0.4 * noise
        asked /= np.linalg.norm(asked)
        nearest = graph.nearest(asked, 4)
        assert all(cosine == pytest.approx(float(vectors[k] @ asked), abs=1e-6) for k, cosine in nearest)
        assert [cosine for _, cosine in nearest] == sorted((c for _, c in nearest), reverse=True)
        found += nearest[0][0] == key
    assert found >= 0.99 * 600


def test_what_is_removed_is_not_found_again_and_a_small_one_is_a_scan(graph, vectors):
    for key in range(560):
        graph.remove(key)
        assert key not in {found for found, _ in graph.nearest(vectors[key], 4)}
    assert len(graph) == 40
    assert graph.nearest(vectors[599], 1)[0][0] == 599
    graph.add(0, vectors[0])
    assert graph.nearest(vectors[0], 1)[0][0] == 0


def test_the_graph_may_come_before_the_encoder():
    program = (
        "import numpy as np\n"
        "from deployments.encoder.graph_index import GraphIndex\n"
        "index = GraphIndex(4, scan_max=1)\n"
        "[index.add(key, np.eye(4, dtype=np.float32)[key]) for key in range(4)]\n"
        "from deployments.encoder.minilm import MiniLm\n"
        "print(MiniLm(threads=1).encode(['a tide']).vectors.shape, index.nearest(np.eye(4)[2], 1)[0][0])\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout.strip()) == (0, "(1, 384) 2"), ended.stderr
