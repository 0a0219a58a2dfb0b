"""The category classifier: shipped weights that know their subjects, and guesses that can be silent."""

import numpy as np
import pytest

from cluster.policy.routing.models.categories import (
    CATEGORIES,
    CONFIDENCE_MIN,
    OTHER,
    CategoryModel,
    classify,
)
from deployments.encoder.categories import load_category_model
from deployments.encoder.minilm import DIMENSIONS, MiniLm

PROMPTS = {
    "biology": "Which organelle turns light into chemical energy in the leaves of plants?",
    "chat": "Write a short birthday greeting for my grandmother, please.",
    "chemistry": "How many moles of sodium chloride form when 2 mol of sodium react with chlorine gas?",
    "code": "Write a Python function that removes duplicates from a list.",
    "economics": "How does a rise of the interest rate shift aggregate demand and the price level?",
    "health": "Which drug is the first choice for a patient with type 2 diabetes and kidney disease?",
    "history": "Which policies of Emperor Augustus changed the government of the Roman Republic?",
    "law": "May the plaintiff recover damages for breach of contract if the defendant is a minor?",
    "math": "Find the determinant of the 3x3 matrix with eigenvalues 1, 2 and 5.",
    "philosophy": "According to Kant, when is an action done from duty and not merely in accordance with it?",
    "physics": "A ball is thrown upwards at 20 m/s. How high does it rise if air resistance is neglected?",
    "psychology": "Which kind of conditioning did Skinner describe with pigeons and reinforcement?",
}


@pytest.fixture(scope="module")
def model():
    return load_category_model()


@pytest.fixture(scope="module")
def encoder():
    return MiniLm(threads=1)


def made_model(scores):
    """A model of one dimension that gives these scores at 1."""
    return CategoryModel(
        weights=np.array([[scores.get(name, 0.0) for name in CATEGORIES]], dtype=np.float32),
        biases=np.zeros(len(CATEGORIES), dtype=np.float32),
    )


@pytest.mark.parametrize("category", PROMPTS)
def test_shipped_weights_know_their_subjects(model, encoder, category):
    guess = classify(encoder.encode([PROMPTS[category]]).vectors[0], model, language="en")
    assert guess.category == category
    assert guess.confidence >= CONFIDENCE_MIN


def test_shipped_weights_are_small_and_of_the_encoders_size(model):
    assert model.weights.shape == (DIMENSIONS, len(CATEGORIES))
    assert np.isfinite(model.weights).all()


def test_probabilities_sum_to_one_for_one_and_for_many(model, encoder):
    rows = encoder.encode(list(PROMPTS.values())).vectors
    many = model.probabilities(rows)
    assert np.allclose(many.sum(axis=1), 1.0)
    assert np.allclose(many[3], model.probabilities(rows[3]), atol=1e-6)


def test_the_embedding_may_come_as_signals_carry_it(model, encoder):
    row = encoder.encode([PROMPTS["law"]]).vectors[0]
    assert classify(tuple(row.tolist()), model, language="en") == classify(row, model, language="en")


def test_confidence_is_the_probability_of_what_is_said():
    guess = classify([1.0], made_model({"law": np.log(60.0)}), language="en")
    assert guess.category == "law"
    assert guess.confidence == pytest.approx(60 / 75)


def test_an_unlikely_category_is_not_said_and_nor_is_its_confidence():
    guess = classify([1.0], made_model({"law": np.log(3.0), OTHER: np.log(2.0)}), language="en")
    assert guess.category == OTHER
    assert guess.confidence == pytest.approx(2 / 19)


def test_nothing_is_said_of_a_language_that_the_encoder_does_not_read():
    certain = made_model({"law": 20.0})
    assert classify([1.0], certain, language="und").category == "law"
    guess = classify([1.0], certain, language="fr")
    assert (guess.category, guess.confidence) == (OTHER, 0.0)


def test_refuses_weights_of_another_shape():
    with pytest.raises(ValueError, match="16 columns"):
        CategoryModel(weights=np.zeros((4, 3), dtype=np.float32), biases=np.zeros(3, dtype=np.float32))
    with pytest.raises(ValueError, match="matmul"):
        classify([1.0, 2.0], made_model({}), language="en")


def test_refuses_a_file_for_other_categories(tmp_path):
    path = tmp_path / "w.npz"
    np.savez(path, categories=np.array(["a", "b"]), weights=np.zeros((2, 2)), biases=np.zeros(2))
    with pytest.raises(ValueError, match="tells a, b apart"):
        load_category_model(path)


def test_no_name_is_there_twice():
    assert len(set(CATEGORIES)) == len(CATEGORIES) == 16
    assert list(CATEGORIES) == sorted(CATEGORIES)
