"""Files of other people: packed or not, with marks and line ends of other systems, damaged."""

import gzip
import json

import pytest

from load_tests.caching.streams import sample
from load_tests.model_tables.formats import read_table
from load_tests.model_tables.table import TableError
from load_tests.performance_fit import main as performance_fit
from load_tests.text_files import FileError, csv_rows, json_document, json_rows, number_of


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file"


@pytest.mark.parametrize("packed", [bytes, gzip.compress])
@pytest.mark.parametrize(
    "text", ['{"a": 1}\n{"a": 2}\n', '\ufeff{"a": 1}\r\n{"a": 2}', '\n\n{"a": 1}\n\n{"a": 2}\n\n']
)
def test_json_lines_are_read_however_they_come(path, text, packed):
    path.write_bytes(packed(text.encode()))
    assert [row["a"] for _, row in json_rows(path, ("a",))] == [1, 2]


def test_half_a_character_is_replaced_and_a_whole_one_stays(path):
    path.write_text('{"a": "cut \\ud83d"}\n{"a": "whole \\ud83d\\ude00"}\n', encoding="utf-8")
    assert [row["a"] for _, row in json_rows(path)] == ["cut ?", "whole \U0001f600"]


@pytest.mark.parametrize("packed", [bytes, gzip.compress])
@pytest.mark.parametrize(
    "text", ["a,b\n1,2\n", "\ufeffb,a\r\n2,1\r\n", '"a", "b", "c"\n1, 2, 3\n', "\n\na,b\n\n1,2\n\n"]
)
def test_csv_is_read_however_it_comes(path, text, packed):
    path.write_bytes(packed(text.encode()))
    assert [(row["a"], row["b"]) for _, row in csv_rows(path, ("a", "b"))] == [("1", "2")]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b'{"a": 1}\n[]\n', "line 2: expected an object"),
        (b'{"a": 1}\n{"b": 1}\n', "line 2: no key 'a'; there are b"),
        (b'{"a": 1}\n{\n', "line 2 is not JSON"),
        (b'{"a": "\xff"}\n', "not UTF-8"),
        (gzip.compress(b'{"a": 1}\n' * 50)[:-9], "file: "),
        (gzip.compress(b'{"a": 1}\n' * 50)[:12] + b"\x00" * 30, "file: "),
    ],
)
def test_json_lines_that_are_none_are_named(path, content, said):
    path.write_bytes(content)
    with pytest.raises(FileError, match="file") as raised:
        list(json_rows(path, ("a",)))
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"a,b\n", "has a header and no row"),
        (b"a,c\n1,2\n", "no column b; there are a, c"),
        (b"a,b\n1,2\n1\n", "line 3: ends before column b"),
        (b"a,b\n1,\xe9\n", "not UTF-8"),
        (b"\x80\x81", "not UTF-8"),
    ],
)
def test_csv_that_is_none_is_named(path, content, said):
    path.write_bytes(content)
    with pytest.raises(FileError, match="file") as raised:
        list(csv_rows(path, ("a", "b")))
    assert said in str(raised.value)


def test_missing_files_and_folders_are_named_once(tmp_path):
    with pytest.raises(FileError, match=r"nothing: No such file or directory$"):
        list(json_rows(tmp_path / "nothing"))
    with pytest.raises(FileError, match=r"Is a directory$"):
        json_document(tmp_path)


@pytest.mark.parametrize("value", [None, "x", "", "nan", "inf", [], float("nan")])
def test_what_is_no_number_is_said(value):
    with pytest.raises(FileError, match=r"line 7: .* is no number"):
        number_of(value, "line 7")


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def pareto(count=12, **changed):
    arms = {"small": {"reward": 0.5, "cost": 0.1}, "large": {"reward": 0.9, "cost": 1.0}}
    rows = [{"prompt": f"p{at}", "source": "s", "arms": arms} for at in range(count)]
    rows[5 % count] |= changed
    return rows


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (pareto(1), "holds 1 prompts and 2 models; a comparison needs 10 and 2"),
        (pareto(arms={"small": {"reward": 1, "cost": 1}}), "line 6: no answer of 'large'"),
        (
            pareto(arms={"small": {"reward": None, "cost": 1}, "large": {"reward": 1, "cost": 1}}),
            "line 6: reward of 'small': None",
        ),
        (
            pareto(arms={"small": {"reward": 1}, "large": {"reward": 1, "cost": 1}}),
            "line 6: no cost of 'small'",
        ),
        ([{**row, "arms": {"small": {"reward": 1, "cost": 1}}} for row in pareto()], "1 models"),
        (
            [{**row, "arms": {name: {"reward": 1, "cost": 0} for name in ("a", "b")}} for row in pareto()],
            "no answer costs anything",
        ),
    ],
)
def test_a_table_that_cannot_be_compared_is_refused_with_the_line(path, rows, said):
    with pytest.raises(TableError, match="file") as raised:
        read_table(lines(path, rows), "paretobandit", {})
    assert said in str(raised.value)


def mmlu_pro(folder, models):
    questions = [{"id": at, "category": "c", "question": "q", "prompt_tokens": 4} for at in range(12)]
    lines(folder / "set_questions.jsonl", questions)
    for part in ("correct", "output_tokens"):
        rows = [",".join(["question_id", *models]), *(f"{at}" + ",1" * len(models) for at in range(12))]
        (folder / f"set_{part}.csv").write_text("\n".join(rows), encoding="utf-8")
    return folder / "set_correct.csv"


def test_results_of_other_models_are_read_by_the_sizes_in_their_names(tmp_path):
    table = read_table(mmlu_pro(tmp_path, ["Qwen3-8B", "Nameless", "Qwen3-32B"]), "mmlu_pro", {})
    assert table.models == ("Qwen3-8B", "Qwen3-32B")
    with pytest.raises(TableError, match="fewer than two name a model's size"):
        read_table(mmlu_pro(tmp_path, ["Qwen3-8B", "Nameless"]), "mmlu_pro", {})


def test_labels_of_pairs_may_be_numbers_in_quotes(path):
    """`"0"` is true to Python, and made every pair a duplicate."""
    pairs = [{"text_a": f"a{at}", "text_b": f"b{at}", "label": "0"} for at in range(9)]
    found = sample(lines(path, pairs), "qqp", texts_max=100, seed=0)
    assert len({prompt.answer for prompt in found}) == len(found) == 18


def test_parts_of_clinc150_that_are_not_there_are_left_out(path):
    path.write_text(json.dumps({"val": [["how old are you", "age"]]}), encoding="utf-8")
    (prompt,) = sample(path, "clinc150", texts_max=10, seed=0)
    assert (prompt.text, prompt.answer) == ("how old are you", "clinc150:age")


@pytest.mark.parametrize(
    ("form", "content", "said"),
    [
        ("qqp", '{"text_a": "a", "label": 1}\n', "line 1: no key 'text_b'"),
        ("qqp", '{"text_a": "a", "text_b": "b", "label": null}\n', "label: None is no number"),
        ("qqp", "text,category\na,b\n", "line 1 is not JSON"),
        ("banking77", "text,label\na,b\n", "no column category"),
        ("banking77", "text,category\na\n", "ends before column category"),
        ("clinc150", "[1]", "expected an object with lists train, val"),
        ("clinc150", '{"train": []}', "expected an object with lists train, val"),
        ("clinc150", "text,category\na,b\n", "not JSON"),
    ],
)
def test_labelled_prompts_of_another_form_are_named(path, form, content, said):
    path.write_text(content, encoding="utf-8")
    with pytest.raises(FileError, match="file") as raised:
        sample(path, form, texts_max=100, seed=0)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [("", "no operating point"), ("gpu,model\nH100,m\n", "no operating point|no column 'source'")],
)
def test_measurements_of_another_form_are_named(path, capsys, content, said):
    path.write_text(content, encoding="utf-8")
    with pytest.raises(SystemExit, match="2"):
        performance_fit(["--measured", str(path)])
    told = capsys.readouterr().err
    assert any(part in told for part in said.split("|"))
