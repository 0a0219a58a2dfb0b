"""What all tests share: bans that keep unit tests pure, time limits by kind, hypothesis profiles."""

import importlib.abc
import importlib.machinery
import os
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import pytest
from hypothesis import settings

_TESTS = Path(__file__).parent
_PURE_KINDS = {"unit", "property"}
_SLOW_TIMEOUT_S = 240
_TIMEOUTS_S = {
    "unit": 10,
    "property": 30,
    "replay": 20,
    "architecture": 30,
    "docs": 60,
    "shell": 60,
    "serve": 600,
}

# No deadline for one example: the machines that run these tests are shared, and pytest-timeout bounds them.
# `make check` asks for `fast` (tests/examples.py).
settings.register_profile("dev", deadline=None)
settings.register_profile("fast", deadline=None, max_examples=25)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


def _kind(path: Path) -> str:
    relative = path.relative_to(_TESTS) if path.is_relative_to(_TESTS) else path
    return relative.parts[0]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        limit_s = _SLOW_TIMEOUT_S if item.get_closest_marker("slow") else _TIMEOUTS_S.get(_kind(item.path))
        if limit_s is not None and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(limit_s))


class _RayWithoutInit(importlib.abc.MetaPathFinder):
    """Lets Ray be imported when a test comes to that, but takes its `init` away."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != "ray":
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        loader: Any = spec.loader if spec else None
        if loader is not None:
            execute = loader.exec_module

            def execute_and_ban(module: ModuleType) -> None:
                execute(module)
                self._monkeypatch.setattr(module, "init", _no_ray)

            loader.exec_module = execute_and_ban
        return spec


def _no_ray(*_: Any, **__: Any) -> NoReturn:
    pytest.fail(
        "Unit and property tests do not start Ray. Test the decision as a function in cluster/, "
        "or move the test to tests/serve."
    )


def _no_connection(*_: Any, **__: Any) -> NoReturn:
    pytest.fail(
        "Unit and property tests open no connections. Pass in the data that would have been received, "
        "or move the test to tests/shell."
    )


def _no_sleep(*_: Any, **__: Any) -> NoReturn:
    pytest.fail(
        "Unit and property tests do not sleep. The core takes time as an argument: pass a later now_s."
    )


@pytest.fixture(autouse=True)
def _only_pure_code(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if _kind(request.path) not in _PURE_KINDS:
        return
    monkeypatch.setattr(socket.socket, "connect", _no_connection)
    monkeypatch.setattr(socket.socket, "connect_ex", _no_connection)
    monkeypatch.setattr(time, "sleep", _no_sleep)
    ray = sys.modules.get("ray")
    if ray is None:
        monkeypatch.setattr(sys, "meta_path", [_RayWithoutInit(monkeypatch), *sys.meta_path])
    else:
        monkeypatch.setattr(ray, "init", _no_ray)
