"""Sizes and names of the source: what import-linter and ruff do not check."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("cluster", "deployments", "operators", "load_tests")
FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 400
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "managers", "misc"}

FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def long_functions(source):
    functions = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    lengths = {node.name: (node.end_lineno or node.lineno) - node.lineno + 1 for node in functions}
    return {name: lines for name, lines in lengths.items() if lines > FUNCTION_LINES_MAX}


def is_vague(name):
    return name in VAGUE_NAMES or name.startswith("base_")


def test_there_is_something_to_check():
    assert {path.relative_to(ROOT).parts[0] for path in FILES} == set(PACKAGES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_and_files_stay_short_enough_to_read(path):
    source = path.read_text(encoding="utf-8")
    assert not long_functions(source), f"split these functions (lines): {long_functions(source)}"
    lines = source.count("\n")
    assert lines <= FILE_LINES_MAX, f"{lines} lines: split the module by concern"


def test_modules_are_named_after_what_they_hold():
    vague = [
        str(path.relative_to(ROOT))
        for path in FILES
        if any(is_vague(part) for part in path.relative_to(ROOT).with_suffix("").parts)
    ]
    assert not vague, f"name these after their concept: {vague}"


def test_every_module_says_what_it_is():
    silent = [
        str(p.relative_to(ROOT)) for p in FILES if not ast.get_docstring(ast.parse(p.read_text("utf-8")))
    ]
    assert not silent, f"modules without a docstring: {silent}"


def test_the_checks_notice_what_they_are_for():
    body = "\n".join(f"    x{n} = {n}" for n in range(FUNCTION_LINES_MAX))
    assert long_functions(f"async def long():\n{body}\n") == {"long": FUNCTION_LINES_MAX + 1}
    assert not long_functions("def short():\n    return 1\n")
    assert is_vague("utils")
    assert is_vague("base_engine")
    assert not is_vague("base")
