"""The bans of the conftest are in force; without them a test turns slow or flaky before anybody notices."""

import importlib
import socket
import sys
import time

import pytest


def test_a_connection_is_refused_with_advice():
    with (
        socket.socket() as client,
        pytest.raises(pytest.fail.Exception, match="move the test to tests/shell"),
    ):
        client.connect(("127.0.0.1", 9))


def test_sleeping_is_refused_with_advice():
    with pytest.raises(pytest.fail.Exception, match="pass a later now_s"):
        time.sleep(0)


def test_ray_is_refused_with_advice_even_if_it_is_imported_only_now(tmp_path, monkeypatch):
    # A stand-in, because importing the real one takes seconds; whether it is loaded already depends on what
    # other kinds of test run in the same process.
    if "ray" not in sys.modules:
        (tmp_path / "ray.py").write_text("def init(): return 'started'\n")
        monkeypatch.syspath_prepend(tmp_path)
    ray = importlib.import_module("ray")
    try:
        with pytest.raises(pytest.fail.Exception, match="move the test to tests/serve"):
            ray.init()
    finally:
        if ray.__file__ == str(tmp_path / "ray.py"):
            del sys.modules["ray"]


def test_the_time_limit_of_the_kind_applies(request):
    assert request.node.get_closest_marker("timeout").args == (10,)
