"""What the chaos suite and the soak say of what they saw."""

import shutil
from itertools import groupby

import pytest
import yaml

from cluster.config import parse_config
from load_tests.chaos.__main__ import main
from load_tests.chaos.cases import FAULTS
from load_tests.chaos.kinds import KINDS
from load_tests.chaos.load import Seen, judged
from load_tests.soak import _SMALL_TABLES, _rows


def _seen(at_s, ended_at_s, kind="ok", ttft_s=0.1, gap_s=0.02):
    return Seen(at_s=at_s, ended_at_s=ended_at_s, kind=kind, ttft_s=ttft_s, longest_gap_s=gap_s)


def test_what_clients_saw_is_told_apart_by_the_fault():
    seen = [
        _seen(0.0, 1.0),
        _seen(1.0, 2.0, "cut"),
        _seen(4.0, 6.5, gap_s=0.7),
        _seen(5.0, 8.0, "wrong"),
        _seen(6.0, 7.0, "http_503", ttft_s=None),
        _seen(9.0, 9.5, ttft_s=0.4),
    ]
    told = judged(seen, 5.0)
    assert (told["requests"], told["failed"], told["failed_before"]) == (6, 3, 1)
    assert told["kinds"] == {"cut": 1, "wrong": 1, "http_503": 1}
    assert told["failing_s"] == 3.0
    assert told["longest_gap_s"] == 0.7
    assert told["longest_request_s"] == 3.0
    assert told["p95_ttft_before_s"] == 0.1


def test_nothing_failed_means_no_time_of_failing():
    told = judged([_seen(0.0, 1.0), _seen(6.0, 7.0)], 5.0)
    assert (told["failed"], told["failing_s"], told["kinds"]) == (0, 0.0, {})


def test_growth_is_told_from_what_stays_after_the_warm_up():
    samples = [{"at_s": 10.0 * n, "router rss_bytes": 1e6 if n < 5 else 1e6 + 100.0 * n} for n in range(20)]
    samples = [{**sample, "ray actors": 7.0} for sample in samples]
    rows = {row["case"]: row for row in _rows(samples, 3)}
    assert rows["router rss_bytes"]["slope_bytes_per_h"] == pytest.approx(36_000.0)
    assert rows["router rss_bytes"]["last_bytes"] > rows["router rss_bytes"]["first_bytes"]
    assert rows["ray actors"]["slope_count_per_h"] == pytest.approx(0.0, abs=1e-6)
    assert rows["ray actors"]["samples"] == 10


def test_faults_have_names_of_their_own_and_the_last_ones_end_the_cluster():
    names = [fault.name for fault in FAULTS]
    assert len(set(names)) == len(names)
    ends = [fault.ends_cluster for fault in FAULTS]
    assert ends == sorted(ends)
    frozen = [fault for fault in FAULTS if fault.name.startswith("freeze")]
    assert frozen
    assert all(fault.heal is not None for fault in frozen)


def test_an_unknown_case_is_refused_with_those_there_are(capsys):
    with pytest.raises(SystemExit) as refused:
        main(["--cases", "kill_nobody"])
    assert refused.value.code == 2
    assert "kill_decode" in capsys.readouterr().err


def test_cases_of_one_kind_of_cluster_stand_together():
    kinds = [kind for kind, _ in groupby(fault.kind for fault in FAULTS if not fault.ends_cluster)]
    assert sorted(kinds) == sorted(set(kinds))
    assert {fault.kind for fault in FAULTS} == set(KINDS)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_of_cluster_has_a_sound_configuration(kind):
    cluster = KINDS[kind]()
    try:
        config = parse_config(yaml.safe_dump(cluster.config))
        small = parse_config(yaml.safe_dump({**cluster.config, **_SMALL_TABLES}))
    finally:
        shutil.rmtree(cluster.folder)
    assert {model.partition(":")[0] for model in cluster.models} <= set(config.client_names)
    names = [model.partition(":")[2] for model in cluster.models if ":" in model]
    assert set(names) == set(config.adapters.catalogue)
    assert small.decision_log.memory_records_max < config.decision_log.memory_records_max
