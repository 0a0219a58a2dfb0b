"""Windows between two reports, whatever the clocks of those who report do."""

from cluster.entities.pool import EngineCounters
from cluster.performance.reported import OutputRates, ReportWindows
from tests.replica_reports import replica_report


def at(at_s, tokens=0):
    return replica_report(pool="p", observed_at_s=at_s, counters=EngineCounters(output_tokens=tokens))


def test_a_window_lies_between_two_reports_and_a_report_seen_before_ends_none():
    windows = ReportWindows()
    assert windows.advance([at(10.0)]) == ()
    assert [window.span_s for window in windows.advance([at(12.0)])] == [2.0]
    assert windows.advance([at(12.0)]) == ()


def test_short_windows_wait_for_the_next_report():
    windows = ReportWindows(span_s_min=3.0)
    windows.advance([at(10.0)])
    assert windows.advance([at(12.0)]) == ()
    assert [window.span_s for window in windows.advance([at(14.0)])] == [4.0]


def test_a_clock_that_was_set_back_costs_one_window_and_not_an_hour_of_them():
    rates = OutputRates()
    rates.update([at(5_000.0, 100)])
    assert rates.update([at(5_001.0, 150)]) == {"p": 50.0}
    assert rates.update([at(1_402.0, 200)]) == {}
    assert rates.update([at(1_403.0, 260)]) == {"p": 60.0}
