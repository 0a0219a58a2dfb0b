"""`tidemill cache`: what is asked of the gateway, and what a person gets to see."""

import json

import pytest

from operators.cli import cache
from operators.cli.console import CliError

CATEGORY = {
    "entries": 3,
    "threshold": 0.912,
    "serves": True,
    "hit_rate": 0.25,
    "break_even_hit_rate": 0.0121,
    "wrong": 1,
    "judged": 200,
    "wrong_rate_upper": 0.031,
    "error_max": 0.05,
}
STATS = {
    "replicas": [
        {
            "exact": {"entries": 5, "bytes": 900},
            "lookups": {"hit": 2, "miss": 7},
            "semantic": {
                "entries": 4,
                "bytes": 8000,
                "saved_tokens": 70,
                "saved_s": 3.0,
                "saved_energy_j": 12.0,
                "saved_usd": 0.25,
                "categories": {"code": CATEGORY, "law": {**CATEGORY, "serves": False}},
            },
        },
        {"exact": {"entries": 0, "bytes": 0}, "lookups": {}, "semantic": None},
    ]
}
ENTRY = {
    "entry_id": "e1",
    "tenant": "t",
    "model": "m",
    "category": "code",
    "hits": 4,
    "age_s": 12.3,
    "similarity": 0.934,
    "text": "How do I sort a list?",
}


@pytest.fixture
def gateway(monkeypatch):
    posted = []

    def post(path, content, *, url):
        posted.append((path, content, url))
        return {"entries": [ENTRY]} if path.endswith("inspect") else {"purged": 2}

    monkeypatch.setattr(cache, "admin_post", post)
    monkeypatch.setattr(cache, "admin_get", lambda _path, **_where: STATS)
    return posted


@pytest.mark.usefixtures("gateway")
def test_stats_say_what_is_served_and_what_is_not(capsys):
    cache.stats(json_output=False, url=None)
    shown = capsys.readouterr().out
    for words in ("5 answers", "70 tokens", "0.912", "serves nothing", "1 of 200", "semantic: off"):
        assert words in shown


def test_entries_are_listed(gateway, capsys):
    cache.inspect({"text": "sort", "model": None}, count=5, json_output=False, url="http://x")
    assert gateway == [("/admin/cache/inspect", {"text": "sort", "count": 5}, "http://x")]
    assert "How do I sort a list?" in capsys.readouterr().out


def test_only_what_was_named_is_forgotten(gateway, capsys):
    cache.purge({"tenant": "t", "model": None}, everything=False, json_output=True, url=None)
    assert gateway == [("/admin/cache/purge", {"tenant": "t"}, None)]
    assert json.loads(capsys.readouterr().out) == {"purged": 2}


def test_forgetting_everything_must_be_said(gateway):
    with pytest.raises(CliError, match="--all"):
        cache.purge({"tenant": None}, everything=False, json_output=False, url=None)
    assert gateway == []
    cache.purge({"tenant": None}, everything=True, json_output=False, url=None)
    assert gateway == [("/admin/cache/purge", {}, None)]
