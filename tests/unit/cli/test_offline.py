"""What is typed wrongly for a simulation is said in one line, and before anything long has been computed."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from operators.cli import plan as plan_module
from operators.cli import simulate as simulate_module
from operators.cli.app import app

FLEET = Path(__file__).parents[3] / "load_tests" / "fleets" / "mixed.yaml"


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.csv"
    lines = [f"2023-11-16 18:15:{second:02d}.0,100,10" for second in range(30)]
    path.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *lines]))
    return path


def _said(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 2, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.output.strip()


@pytest.mark.parametrize("command", ["simulate", "plan"])
@pytest.mark.parametrize(
    ("picture", "words"),
    [
        ("day.xyz", "day.xyz: a picture is a .png, .svg, .pdf or .html"),
        ("no/day.png", "no is no folder that can be written to"),
    ],
)
def test_a_picture_that_cannot_be_drawn_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, trace: Path, command: str, picture: str, words: str
) -> None:
    monkeypatch.setattr(simulate_module, "run_case", lambda *_: pytest.fail("simulated"))
    monkeypatch.setattr(plan_module, "plan_fleets", lambda *_, **__: pytest.fail("simulated"))
    assert words in _said(command, "-c", FLEET, "--trace", trace, "--plot", tmp_path / picture)


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--attainment", "2", "--attainment: Input should be less than 1"),
        ("--attainment", "nan", "--attainment: Input should be a finite number"),
        ("--against", "a100", "--against: expected pool=count"),
        ("--against", "nosuch=3", "no pool 'nosuch' serves llama"),
        ("--rate", "inf", "a rate must be positive and finite, not inf"),
        ("--rate", "-1", "a rate must be positive and finite, not -1.0"),
    ],
)
def test_plan_names_the_option_that_is_wrong_before_it_plans(
    monkeypatch: pytest.MonkeyPatch, trace: Path, option: str, value: str, words: str
) -> None:
    monkeypatch.setattr(plan_module, "plan_fleets", lambda *_, **__: pytest.fail("simulated"))
    told = _said("plan", "-c", FLEET, "--trace", trace, option, value)
    assert told.startswith(f"tidemill: {words}")
    assert "\n" not in told
