"""The semantic cache's benchmark on generated files of its three formats: readers, baselines, command."""

import csv
import gzip
import json

import numpy as np
import pytest

from cluster.policy.semantic_cache.exact_scan import ExactScan
from load_tests.caching.baselines import PerEntry, Static, exploration, judge_of
from load_tests.caching.curves import hit_ratio_at
from load_tests.caching.known_cosines import KnownCosines, KnownIndex
from load_tests.caching.stream_replay import replay
from load_tests.caching.streams import in_order, sample
from load_tests.semantic_cache import main

THINGS = ("tide", "moon", "harbour", "anchor", "sail", "mast", "keel", "rudder")
FORMS = ("What is a {}?", "Tell me what a {} is", "Can you explain a {}?", "what's a {}", "Define {} for me")


@pytest.fixture
def files(tmp_path):
    texts = {thing: [form.format(thing) for form in FORMS] for thing in THINGS}
    pairs = [
        {"text_a": texts[thing][0], "text_b": other, "label": 1}
        for thing in THINGS
        for other in texts[thing][1:]
    ]
    pairs += [
        {"text_a": texts[one][0], "text_b": f"Who invented the {other}?", "label": 0}
        for one in THINGS
        for other in THINGS
        if one != other
    ]
    with gzip.open(tmp_path / "qqp.jsonl.gz", "wt") as lines:
        lines.writelines(json.dumps(pair) + "\n" for pair in pairs)
    with gzip.open(tmp_path / "banking.csv.gz", "wt", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerow(["text", "category"])
        writer.writerows(
            [f"my {thing} is lost, number {n}", f"lost_{thing}"] for thing in THINGS for n in range(3)
        )
    intents = [[f"show the {thing} {n}", thing] for thing in THINGS for n in range(3)]
    content = {
        "train": intents,
        "val": [],
        "oos_train": [["sing a song", "oos"], ["hop", "oos"]],
        "oos_val": [],
    }
    with gzip.open(tmp_path / "clinc.json.gz", "wt") as whole:
        json.dump(content, whole)
    with gzip.open(tmp_path / "domains.json.gz", "wt") as whole:
        json.dump({"sea": ["tide", "harbour"], "ship": ["anchor", "sail", "mast", "keel", "rudder"]}, whole)
    return tmp_path


def test_question_pairs_are_groups_and_what_is_near_them(files):
    prompts = sample(files / "qqp.jsonl.gz", "qqp", texts_max=30, seed=1)
    assert len(prompts) == 30
    sizes = np.unique([prompt.answer for prompt in prompts], return_counts=True)[1]
    assert sorted(sizes)[-3:] == [5, 5, 5]
    assert sizes.min() == 1
    assert prompts == sample(files / "qqp.jsonl.gz", "qqp", texts_max=30, seed=1)


def test_intents_are_answers_and_domains_are_categories(files):
    banking = sample(files / "banking.csv.gz", "banking77", texts_max=100, seed=1)
    assert len({prompt.answer for prompt in banking}) == len(THINGS)
    clinc = sample(
        files / "clinc.json.gz", "clinc150", texts_max=100, seed=1, domains=files / "domains.json.gz"
    )
    assert {prompt.category for prompt in clinc} == {"sea", "ship", "assistant", "out_of_scope"}
    outside = [prompt.answer for prompt in clinc if prompt.category == "out_of_scope"]
    assert len(set(outside)) == len(outside) == 2


def test_orders_differ_by_seed_and_lose_nobody(files):
    prompts = sample(files / "banking.csv.gz", "banking77", texts_max=100, seed=1)
    assert sorted(in_order(prompts, 1)) == list(range(len(prompts)))
    assert in_order(prompts, 1) != in_order(prompts, 2)


def test_one_threshold_serves_what_is_near_right_or_wrong(files):
    prompts = sample(files / "banking.csv.gz", "banking77", texts_max=100, seed=1)
    same = np.ones((len(prompts), 1), dtype=np.float32)
    outcome = replay(Static(same, 0.5), prompts, range(len(prompts)))
    assert outcome.hits == len(prompts) - 1
    assert outcome.wrong == sum(prompt.answer != prompts[0].answer for prompt in prompts)


def test_an_entry_explores_until_it_knows_and_less_the_safer_it_is():
    right, mixed = [(0.9, True)] * 60, [(0.9, True), (0.9, False)] * 30
    assert exploration(right[:5], 0.95, delta=0.1) == 1.0
    safe, unsafe = exploration(right, 0.95, delta=0.1), exploration(mixed, 0.9, delta=0.1)
    assert 0 <= safe < unsafe <= 1
    assert exploration(right, 0.95, delta=0.3) < exploration(right, 0.95, delta=0.02)


def test_an_entry_of_its_own_is_only_for_what_was_wrong(files):
    prompts = sample(files / "banking.csv.gz", "banking77", texts_max=100, seed=1)
    answers = sorted({prompt.answer for prompt in prompts})
    vectors = np.eye(len(answers), dtype=np.float32)[[answers.index(p.answer) for p in prompts]]
    policy = PerEntry(vectors, judge_of(prompts, error_rate=0.0, seed=0), delta=0.1, seed=0)
    outcome = replay(policy, prompts, range(len(prompts)))
    assert outcome.wrong == 0
    assert len(policy._index) == len(answers)


def test_a_curve_is_read_between_its_points():
    points = [
        {"wrong_among_hits": wrong, "hit_ratio": hits, "hits": 1}
        for wrong, hits in ((0.02, 0.1), (0.05, 0.08), (0.06, 0.3))
    ]
    assert hit_ratio_at(0.01, points) == 0.0
    assert hit_ratio_at(0.04, points) == pytest.approx(0.2)
    assert hit_ratio_at(0.5, points) == 0.3


def test_the_command_prints_one_object_with_a_row_for_each_policy_and_order(files, capsys):
    status = main(
        [
            *(
                "--pairs",
                str(files / "qqp.jsonl.gz"),
                str(files / "banking.csv.gz"),
                str(files / "clinc.json.gz"),
            ),
            *("--format", "qqp", "banking77", "clinc150", "--domains", str(files / "domains.json.gz")),
            *(
                "--delta",
                ".1",
                ".3",
                "--orders",
                "2",
                "--texts",
                "40",
                "--cache",
                str(files / "vectors.sqlite"),
            ),
            "--json",
        ]
    )
    result = json.loads(capsys.readouterr().out)
    assert (status, result["benchmark"]) == (0, "semantic_cache")
    policies = {row["policy"] for row in result["rows"]}
    for name in ("verified_0.1", "vcache_0.3", "gptcache", "global", "global_guarded", "category"):
        assert name in policies
    for row in result["rows"]:
        if row["policy"] in {"verified_0.1", "gptcache", "vcache_0.1"}:
            assert {
                "hit_ratio",
                "wrong_among_hits",
                "wrong_upper_bound",
                "fresh_answers",
                "lookup_p50_s",
            } <= set(row)
            assert row["case"] == "mixed"
    assert {row["seed"] for row in result["rows"]} == {0, 1}


def test_cosines_that_are_known_find_what_looking_at_all_finds():
    generator = np.random.default_rng(1)
    vectors = generator.normal(size=(60, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    known, scan = KnownIndex(KnownCosines(vectors)), ExactScan(8)
    for key in generator.permutation(60)[:40].tolist():
        for index in (known, scan):
            index.add(key, vectors[key])
    for key in list(scan.keys())[::3]:
        known.remove(key)
        scan.remove(key)
    for row in vectors:
        expected, found = scan.nearest(row, 5), known.nearest(row, 5)
        assert [key for key, _ in found] == [key for key, _ in expected]
        assert [cosine for _, cosine in found] == pytest.approx([cosine for _, cosine in expected], abs=1e-6)
