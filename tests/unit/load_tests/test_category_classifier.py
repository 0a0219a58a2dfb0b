"""Fitting the classifier: the regression finds what was put in, and reports are of prompts not seen."""

import gzip
import json

import numpy as np
import pytest

from cluster.policy.routing.models.categories import CATEGORIES, CategoryModel
from deployments.encoder.categories import load_category_model
from load_tests.category_classifier import Prompts, fitted, held_out, texts_of, write_model
from load_tests.signals import category_transfer
from load_tests.signals.category_report import at_threshold, by_category, confusion, overall, reliability
from load_tests.signals.logistic_regression import fit, sharpness


def drawn(seed, count, size=6, classes=3, scale=2.0):
    """Rows, and classes drawn with the probabilities of known weights."""
    chance = np.random.default_rng(seed)
    weights = scale * chance.normal(size=(size, classes))
    rows = chance.normal(size=(count, size))
    scores = rows @ weights
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares = (odds / odds.sum(axis=1, keepdims=True)).cumsum(axis=1)
    return rows, (chance.random((count, 1)) > shares).sum(axis=1), weights


def test_the_fit_finds_the_weights_that_the_classes_were_drawn_with():
    rows, classes, weights = drawn(1, 20_000)
    found = fit(rows, classes, classes_count=3, penalty=1e-6).weights
    # Adding the same to all classes changes nothing.
    assert np.allclose(
        found - found.mean(axis=1, keepdims=True), weights - weights.mean(axis=1, keepdims=True), atol=0.15
    )


def test_the_penalty_shrinks():
    rows, classes, _ = drawn(2, 500)
    loose, tight = (fit(rows, classes, classes_count=3, penalty=p).weights for p in (1e-6, 1.0))
    assert np.abs(tight).max() < 0.3 * np.abs(loose).max()


def test_sharpness_finds_probabilities_that_were_made_blunt():
    rows, classes, _ = drawn(3, 20_000)
    logs = fit(rows, classes, classes_count=3, penalty=1e-6).log_probabilities(rows)
    assert sharpness(logs, classes) == pytest.approx(1.0, abs=0.05)
    assert sharpness(logs / 2, classes) == pytest.approx(2.0, abs=0.1)


def labels_without_meaning(count):
    chance = np.random.default_rng(5)
    return Prompts(
        texts=[str(number) for number in range(count)],
        categories=chance.integers(len(CATEGORIES), size=count),
        embeddings=chance.normal(size=(count, 100)),
    )


def test_held_out_figures_are_of_prompts_that_were_not_seen():
    prompts = labels_without_meaning(400)
    seen = fitted(prompts, penalty=1e-6).probabilities(prompts.embeddings.astype(np.float32))
    assert (seen.argmax(axis=1) == prompts.categories).mean() > 0.5
    logs = held_out(prompts, penalty=1e-6, seed=0)
    assert overall(logs, prompts.categories)["accuracy"] < 0.12


def test_the_written_model_is_the_one_that_is_read(tmp_path):
    model = fitted(labels_without_meaning(100), penalty=1e-3)
    write_model(tmp_path / "w.npz", model)
    read = load_category_model(tmp_path / "w.npz")
    assert np.array_equal(read.weights, model.weights)
    assert np.array_equal(read.biases, model.biases)


def test_reports_count_right():
    law, math, code = (CATEGORIES.index(name) for name in ("law", "math", "code"))
    shares = np.full((4, len(CATEGORIES)), 1e-6)
    shares[[0, 1, 2, 3], [law, law, math, code]] = 0.9, 0.6, 0.3, 0.8
    logs, classes = np.log(shares), np.array([law, math, math, code])
    whole = overall(logs, classes)
    assert (whole["accuracy"], whole["domains_accuracy"]) == (0.75, pytest.approx(2 / 3))
    assert whole["accuracy_low"] < 0.75 < whole["accuracy_high"]
    assert whole["log_loss"] == pytest.approx(-np.log([0.9, 1e-6, 0.3, 0.8]).mean())
    assert at_threshold(logs, classes, 0.5) == {
        "case": "confidence_min=0.5",
        "said_share": 0.75,
        "said_accuracy": pytest.approx(2 / 3),
        "unsaid_accuracy": 1.0,
    }
    rows = {row["case"]: row for row in by_category(logs, classes)}
    assert (rows["law"]["recall"], rows["law"]["precision"]) == (1.0, 0.5)
    assert (rows["math"]["recall"], rows["math"]["precision"]) == (0.5, 1.0)
    assert confusion(logs, classes)["counts"][math][law] == 1
    assert sum(part["prompts"] for part in reliability(logs, classes)) == 4


def test_reads_what_users_say_in_each_format(tmp_path):
    rows = tmp_path / "rows.jsonl.gz"
    turns = {"category": "coding", "turns": ["c", "d"]}
    other = {"category": "math", "turns": ["e"]}
    with gzip.open(rows, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in ({"prompt": "a"}, {"query": "b"}, turns, other))
    assert list(texts_of(rows, "code")) == ["a", "b", "c", "d"]
    assert list(texts_of(rows, "chat")) == ["a", "b"]
    intents = tmp_path / "intents.json.gz"
    with gzip.open(intents, "wt") as file:
        json.dump({"val": [[str(number), "intent"] for number in range(9)]}, file)
    assert list(texts_of(intents, "chat")) == ["0", "4", "8"]


def test_transfer_leaves_out_what_the_fit_may_have_seen(tmp_path, monkeypatch):
    questions = [
        {
            "question": "Q1 taken up",
            "category": "computer science",
            "src": "ori_mmlu-college_computer_science",
        },
        {"question": "Q2", "category": "law", "src": "stemez-Law"},
    ]
    prompts = [
        {"bench": "mmlu", "category": "college_computer_science", "prompt": "Q1 taken up"},
        {"bench": "mmlu", "category": "college_computer_science", "prompt": "new"},
        {"bench": "mmlu", "category": "astronomy", "prompt": "of a subject without a category"},
        {"bench": "gsm8k", "category": "math", "prompt": "ducks"},
    ]
    for name, rows in (("q", questions), ("p", prompts)):
        with gzip.open(tmp_path / name, "wt") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    embedded = []
    monkeypatch.setattr(
        category_transfer, "embed", lambda texts, _: embedded.extend(texts) or np.ones((len(texts), 1))
    )
    scores = [float(name == "math") for name in CATEGORIES]
    model = CategoryModel(
        weights=np.array([scores], dtype=np.float32), biases=np.zeros(len(CATEGORIES), dtype=np.float32)
    )
    rows = {
        row["case"]: row for row in category_transfer.transfer(tmp_path / "p", tmp_path / "q", model, None)
    }
    assert embedded == ["new", "ducks"]
    assert rows["transfer:gsm8k"]["accuracy"] == 1.0
    assert rows["transfer:mmlu"]["accuracy"] == 0.0
    assert rows["transfer:mmlu"]["mean_confidence"] == pytest.approx(np.e / (np.e + 15))
