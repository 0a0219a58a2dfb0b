"""What all benchmarks do alike at the command line: help, lists of names, JSON."""

import json
import math
import signal
from importlib import import_module
from pathlib import Path

import pytest

from load_tests import __file__ as load_tests_file
from load_tests.command import Parser, exit_with, names_of, print_json, spelled

MODULES = sorted(
    path.stem
    for path in Path(load_tests_file).parent.glob("*.py")
    if "exit_with(main)" in path.read_text(encoding="utf-8")
)


def test_help_names_defaults_and_survives_percent_signs():
    parser = Parser(prog="p")
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--cases", default="feedback20%")
    parser.add_argument("--policies", nargs="+", default=["a", "b"])
    parser.add_argument("--rate", type=float, help="a second")
    parser.add_argument("--quick", action="store_true", help="leave things out")
    told = " ".join(parser.format_help().split())
    assert "how many (5)" in told
    assert "(feedback20%)" in told
    assert "(a b)" in told
    assert "a second --quick leave things out" in told, "nothing is said where nothing is the default"


@pytest.mark.parametrize("module", [*MODULES, "chaos.__main__"])
def test_every_benchmark_prints_help(module, capsys):
    with pytest.raises(SystemExit, match="0"):
        import_module(f"load_tests.{module}").main(["--help"])
    told = capsys.readouterr().out
    name = module.removesuffix(".__main__")
    assert f"python -m load_tests.{name}" in told
    assert "--json" in told or name == "bench"


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("all", ["a", "b", "c"]),
        ("b", ["b"]),
        ("c,a", ["c", "a"]),
        (" c, a ,", ["c", "a"]),
        (["c", "a,b"], ["c", "a", "b"]),
        ("a,a", ["a"]),
    ],
)
def test_names_come_with_commas_or_spaces_once_each_and_in_order(given, wanted):
    assert names_of(given, ("a", "b", "c"), "policy") == wanted


@pytest.mark.parametrize("given", ["x", "a,x", "all,x", "", ",", []])
def test_unknown_names_and_none_are_refused_with_the_list(given):
    with pytest.raises(ValueError, match=r"policy.*there are a, b, or all"):
        names_of(given, ("a", "b"), "policy")


def test_numbers_in_json_are_finite(capsys):
    print_json({"rows": [{"a": math.nan, "b": [math.inf, 1.5]}], "c": (1, -math.inf)})
    assert json.loads(capsys.readouterr().out) == {"rows": [{"a": None, "b": [None, 1.5]}], "c": [1, None]}


def test_a_command_can_be_typed_again():
    assert spelled("x", ["--trace", "my file", "--json"]) == "python -m load_tests.x --trace 'my file' --json"
    assert spelled("x", []) == "python -m load_tests.x"


@pytest.mark.parametrize(
    ("module", "more"),
    [
        ("gateway_overhead", []),
        ("disaggregation", []),
        ("replay", ["--trace", "t", "--url", "http://127.0.0.1:1/v1"]),
    ],
)
def test_a_configuration_that_is_not_there_is_named(module, more, capsys):
    with pytest.raises(SystemExit, match="2"):
        import_module(f"load_tests.{module}").main([*more, "--config", "/nowhere.yaml"])
    assert "--config: /nowhere.yaml: no such file" in capsys.readouterr().err


def test_an_interrupt_is_a_line_and_a_status(capsys, monkeypatch):
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit, match="130"):
        exit_with(interrupted)
    assert capsys.readouterr().err == "interrupted\n"
    with pytest.raises(SystemExit, match="3"):
        exit_with(lambda: 3)
