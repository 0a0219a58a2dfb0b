"""The model-routing benchmark reads every published format and gives rows that can be compared."""

import csv
import gzip
import json

import numpy as np
import pytest

from load_tests.model_routing import main
from load_tests.model_tables.energy_per_token import answer_j, j_per_output_token, size_in_name
from load_tests.model_tables.formats import MMLU_PRO_MODELS, read_table
from load_tests.model_tables.table import TableError

ROWS = 90
TOPICS = {"code": "write a python function that sorts", "math": "compute the sum of the integers from"}
METRICS = {"quality", "cost_usd", "energy_j", "regret"}


def prompts():
    chance = np.random.default_rng(0)
    for at in range(ROWS):
        topic = ("code", "math")[at % 2]
        words = " ".join(str(word) for word in chance.choice(["big", "small", "odd", "even", "list"], size=4))
        yield topic, f"{TOPICS[topic]} {words} {chance.integers(20)}", chance


def write_lines(path, lines):
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    return path


def paretobandit(folder):
    arms = {"small": (3e-5, 0.6), "middle": (5e-4, 0.8), "large": (1e-2, 0.9)}
    lines = [
        {
            "prompt": prompt,
            "source": topic,
            "arms": {
                arm: {"reward": float(chance.random() < quality), "cost": cost}
                for arm, (cost, quality) in arms.items()
            },
        }
        for topic, prompt, chance in prompts()
    ]
    return write_lines(folder / "rewards.jsonl.gz", lines)


def mmlu_pro(folder):
    asked = list(prompts())
    questions = [
        {"id": at, "category": topic, "question": prompt, "prompt_tokens": 40}
        for at, (topic, prompt, _) in enumerate(asked)
    ]
    write_lines(folder / "set_questions.jsonl.gz", questions)
    chance = np.random.default_rng(1)
    for part in ("correct", "output_tokens"):
        with gzip.open(folder / f"set_{part}.csv.gz", "wt", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["question_id", *MMLU_PRO_MODELS])
            for at in range(ROWS):
                drawn = chance.integers(2, size=8) if part == "correct" else chance.integers(20, 300, size=8)
                rows.writerow([at, *drawn])
    return folder / "set_correct.csv.gz"


def llmrouter(folder):
    sizes = {"tiny-2b": "2B", "huge-70b": "70B"}
    listed = {model: {"size": size, "input_price": 0.2, "output_price": 0.2} for model, size in sizes.items()}
    (folder / "llmrouter_models.json").write_text(json.dumps(listed))
    lines = [
        {
            "split": "test",
            "task": topic,
            "query": prompt,
            "scores": {model: float(chance.random()) for model in sizes},
        }
        for topic, prompt, chance in prompts()
    ]
    return write_lines(folder / "scores.jsonl.gz", lines)


def routellm(folder):
    lines = [
        {
            "bench": "mmlu",
            "category": topic,
            "prompt": prompt,
            "mixtral": bool(chance.random() < 0.6),
            "gpt4": bool(chance.random() < 0.9),
        }
        for topic, prompt, chance in prompts()
    ]
    return write_lines(folder / "mixtral_gpt4.jsonl.gz", lines)


WRITERS = {f.__name__: f for f in (paretobandit, mmlu_pro, llmrouter, routellm)}


@pytest.fixture(autouse=True)
def _no_git(monkeypatch):
    """Asking git for the commit waits for a process."""
    monkeypatch.setattr("load_tests.model_routing.circumstances", lambda _: {"commit": None})


def run(capsys, *arguments):
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("kind", "policy", "cases"),
    [
        ("paretobandit", "linucb", "offline,online"),
        ("paretobandit", "ridge", "phases"),
        ("mmlu_pro", "linucb", "order"),
        ("llmrouter", "category_map", "offline"),
        ("routellm", "ridge", "cascade"),
    ],
)
def test_every_format_gives_rows_with_the_promised_metrics(kind, policy, cases, tmp_path, capsys):
    table = WRITERS[kind](tmp_path)
    arguments = ["--table", str(table), "--format", kind, "--policies", policy, "--features", "tfidf"]
    result = run(capsys, *arguments, "--cases", cases, "--seeds", "1")
    assert result["benchmark"] == "model_routing"
    assert result["requests"] == ROWS
    assert result["energy_source"]
    assert {row["case"].split("-")[0] for row in result["rows"]} >= set(cases.split(","))
    for row in result["rows"]:
        assert row.keys() >= METRICS
        assert all(isinstance(row[name], float) and np.isfinite(row[name]) for name in METRICS)
        assert 0 <= row["quality"] <= 1


def test_equal_seeds_give_equal_rows(tmp_path, capsys):
    arguments = ["--table", str(paretobandit(tmp_path)), "--format", "paretobandit", "--features", "tfidf"]
    arguments += ["--policies", "thompson", "--cases", "online", "--seeds", "1"]
    assert run(capsys, *arguments)["rows"] == run(capsys, *arguments)["rows"]


def test_budget_rows_say_what_was_spent_and_whether_one_model_was_better(tmp_path, capsys):
    table = str(paretobandit(tmp_path))
    arguments = ["--table", table, "--format", "paretobandit", "--features", "tfidf", "--policies", "linucb"]
    rows = run(capsys, *arguments, "--cases", "budgets", "--seeds", "1")["rows"]
    assert len({row["budget_usd"] for row in rows}) == 7
    assert {row["start"] for row in rows} == {"cold", "warm"}
    for row in rows:
        assert row["spent_over_budget"] == pytest.approx(row["cost_usd"] / row["budget_usd"])
        # this table's dearest model is its best, so that mixing it in always gains
        assert row["two_models_mixed_over_cheaper_single"] > 0
        assert row["lost_by_a_try_of_the_cheapest"] >= 0
        assert row["dominated"] == (row["quality_over_cheaper_single"] < 0)


@pytest.mark.parametrize(("stream", "cold"), [("test", ROWS // 2), ("whole", ROWS)])
def test_who_starts_from_nothing_may_be_led_along_the_whole_table(stream, cold, tmp_path, capsys):
    table = str(paretobandit(tmp_path))
    arguments = ["--table", table, "--format", "paretobandit", "--features", "tfidf", "--policies", "ridge"]
    rows = run(capsys, *arguments, "--cases", "online", "--seeds", "1", "--stream", stream)["rows"]
    requests = {
        row["start"]: round(row["regret"] / row["regret_per_request"]) for row in rows if "start" in row
    }
    assert requests == {"cold": cold, "warm": ROWS // 2}


def test_a_judge_that_errs_more_makes_the_cascade_worse(tmp_path, capsys):
    table = str(routellm(tmp_path))
    arguments = ["--table", table, "--format", "routellm", "--features", "tfidf", "--policies", "ridge"]
    rows = run(capsys, *arguments, "--seeds", "3")["rows"]
    best = {
        error: np.mean([row["quality"] for row in rows if row.get("judge_error") == error])
        for error in (0.0, 0.3)
    }
    assert best[0.0] > best[0.3]


def test_decisions_are_timed(capsys):
    rows = run(capsys, "--decision-time", "--policies", "static", "--seeds", "1")["rows"]
    assert rows[0]["case"] == "decision-time-8x64"
    assert 0 < rows[0]["p50_s"] <= rows[0]["p99_s"]


@pytest.mark.parametrize("kind", sorted(WRITERS))
def test_a_file_of_another_format_is_named(kind, tmp_path):
    wrong = write_lines(tmp_path / "wrong.jsonl.gz", [{"something": 1}])
    with pytest.raises((TableError, OSError), match="wrong"):
        read_table(wrong, kind, {})


def test_a_row_that_a_model_did_not_answer_is_left_out(tmp_path):
    table = mmlu_pro(tmp_path)
    with gzip.open(table, "rt", encoding="utf-8") as file:
        lines = file.read().splitlines()
    lines[1] = lines[1].rsplit(",", 1)[0] + ","
    with gzip.open(table, "wt", encoding="utf-8") as file:
        file.write("\n".join(lines))
    assert len(read_table(table, "mmlu_pro", {})) == ROWS - 1


def changed(path, change, line=4):
    """The file with one of its JSON lines changed."""
    rows = [json.loads(text) for text in gzip.decompress(path.read_bytes()).splitlines()]
    change(rows[line])
    return write_lines(path, rows)


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        ("paretobandit", lambda row: row["arms"]["small"].update(reward=90), "line 5: reward of 'small': 90"),
        ("paretobandit", lambda row: row["arms"].update(small=3), "line 5: no reward of 'small'"),
        ("llmrouter", lambda row: row["scores"].pop("tiny-2b"), "line 5: no score of 'tiny-2b'"),
        ("llmrouter", lambda row: row.update(scores=[1]), "line 5: no score of 'huge-70b'"),
        (
            "llmrouter",
            lambda row: row["scores"].update({"tiny-2b": None}),
            "line 5: score of 'tiny-2b': None",
        ),
        ("routellm", lambda row: row.update(gpt4=7), "line 5: gpt4: 7 is no quality"),
        ("routellm", lambda row: row.update(gpt4=None), "line 5: gpt4: None is no number"),
    ],
)
def test_a_damaged_line_is_named(kind, change, said, tmp_path):
    with pytest.raises(TableError) as raised:
        read_table(changed(WRITERS[kind](tmp_path), change), kind, {})
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"output_price": 1}, "'tiny-2b': no size"),
        ({"size": "huge", "output_price": 1}, "'tiny-2b': 'huge' is no size"),
        ({"size": "2B"}, "'tiny-2b': no output_price"),
        ({"size": "2B", "output_price": "free"}, "'tiny-2b': output_price: 'free' is no number"),
    ],
)
def test_a_listed_model_without_size_or_price_is_named(entry, said, tmp_path):
    table = llmrouter(tmp_path)
    listed = tmp_path / "llmrouter_models.json"
    listed.write_text(json.dumps({"huge-70b": {"size": "70B", "output_price": 1}, "tiny-2b": entry}))
    with pytest.raises(TableError, match=r"llmrouter_models\.json") as raised:
        read_table(table, "llmrouter", {})
    assert said in str(raised.value)


def test_a_question_without_its_length_is_named(tmp_path):
    table = mmlu_pro(tmp_path)
    changed(tmp_path / "set_questions.jsonl.gz", lambda row: row.update(prompt_tokens=None))
    with pytest.raises(TableError, match=r"set_questions.*prompt_tokens of question 4: None"):
        read_table(table, "mmlu_pro", {})


@pytest.mark.parametrize("count", [2, 12])
@pytest.mark.parametrize("packed", [True, False])
def test_a_tiny_table_of_few_or_many_models_in_any_order_is_compared(count, packed, tmp_path, capsys):
    chance = np.random.default_rng(count)
    lines = [
        {
            "source": topic,
            "arms": {
                f"model-{n}": {"cost": 1e-5 * 2.0**n, "reward": float(chance.random())}
                for n in chance.permutation(count)
            },
            "prompt": prompt,
        }
        for (topic, prompt, _), _ in zip(prompts(), range(20), strict=False)
    ]
    table = write_lines(tmp_path / "rewards.jsonl.gz", lines)
    if not packed:
        table.with_suffix("").write_bytes(gzip.decompress(table.read_bytes()))
        table = table.with_suffix("")
    arguments = ["--table", str(table), "--format", "paretobandit", "--features", "tfidf"]
    result = run(capsys, *arguments, "--policies", "linucb", "--seeds", "1")
    assert len(result["models"]) == count
    assert {row["case"].split("-")[0] for row in result["rows"]} == {"offline", "online", "budget", "phases"}
    numbers = [value for row in result["rows"] for value in row.values() if isinstance(value, float)]
    assert np.isfinite(numbers).all()


@pytest.mark.parametrize(
    ("model", "size"),
    [
        ("Meta-Llama-3_1-70B-Instruct", "70b"),
        ("Mixtral-8x7B-v0.1", "8x7b"),
        ("Phi-3-mini-4k-instruct", "3.8b"),
    ],
)
def test_sizes_are_read_from_names(model, size):
    assert size_in_name(model) == size


def test_a_name_without_a_size_is_an_error():
    with pytest.raises(TableError, match="states no size"):
        size_in_name("gpt-4")


def test_energy_grows_with_size_and_is_the_measured_one_where_there_is_one():
    measured = {"8.0b": 0.1711, "70.6b": 1.3127, "8x7b": 1.0059}
    assert {size: j_per_output_token(size) for size in measured} == pytest.approx(measured)
    assert j_per_output_token("8b") < j_per_output_token("20b") < j_per_output_token("70b")
    assert answer_j("8b", np.array([70.0]), np.array([10.0])) == pytest.approx(20 * 0.1711)
