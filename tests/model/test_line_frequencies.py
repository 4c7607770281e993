"""What training sessions consist of: how often each line comes, when, and what its absence means."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loggpt_stream.lines.session import Line, Session
from loggpt_stream.model.line_frequencies import EMPTY, LineFrequencies
from testing.tiny_bundle import nova34


def session(*texts: str, times_s: list[float] | None = None) -> Session:
    times_s = times_s or [1000.0 + i for i in range(len(texts))]
    lines = [Line(time_s, i, text, "", "raw") for i, (text, time_s) in enumerate(zip(texts, times_s, strict=True))]
    return Session("key", "instance", times_s[0], times_s[-1], 0, lines=lines)


# "always" is in all four, "often" in three, "once" in one.
FREQUENCIES = LineFrequencies.of(
    [
        session("always", "often", "often", "often"),
        session("often", "always"),
        session("always", "always", "often"),
        session("once", "always"),
    ]
)
SESSIONS = [each for each in nova34().sessions if each.kind == "instance"][:60]
TEXTS = st.lists(st.sampled_from(["always", "often", "once", "never", "new"]), max_size=12)


def test_a_line_counts_once_for_each_session_that_holds_it() -> None:
    assert FREQUENCIES.sessions == 4
    assert {text: known.sessions for text, known in FREQUENCIES.lines.items()} == {"always": 4, "often": 3, "once": 1}
    assert [FREQUENCIES.frequency(text) for text in ("always", "often", "once", "never")] == [4, 3, 1, 0]
    assert "once" in FREQUENCIES
    assert "never" not in FREQUENCIES


def test_the_counts_of_real_sessions_are_those_of_a_plain_count() -> None:
    frequencies = LineFrequencies.of(SESSIONS)
    counted = Counter(text for each in SESSIONS for text in set(each.texts))
    assert {text: known.sessions for text, known in frequencies.lines.items()} == counted
    assert list(frequencies.lines) == sorted(counted, key=lambda text: (-counted[text], text))


def test_absence_is_the_sum_of_what_the_absence_of_each_line_costs() -> None:
    # (N - n + 1) / (N + 2) for a line that n of N = 4 sessions hold: 1/6, 2/6 and 4/6.
    assert FREQUENCIES.absence([]) == pytest.approx(math.log(6) + math.log(3) + math.log(1.5))
    assert FREQUENCIES.absence(["always"]) == pytest.approx(math.log(3) + math.log(1.5))
    assert FREQUENCIES.absence(["once", "once", "always"]) == pytest.approx(math.log(3))
    assert FREQUENCIES.absence(["always", "often", "once"]) == pytest.approx(0.0, abs=1e-12)


@given(TEXTS)
def test_absence_is_never_negative_and_unknown_lines_do_not_change_it(texts: list[str]) -> None:
    assert FREQUENCIES.absence(texts) >= 0
    assert FREQUENCIES.absence(texts) == FREQUENCIES.absence([text for text in texts if text in FREQUENCIES])
    expected = sum(
        -math.log((4 - FREQUENCIES.frequency(text) + 1) / 6) for text in FREQUENCIES.lines if text not in texts
    )
    assert FREQUENCIES.absence(texts) == pytest.approx(expected, abs=1e-9)


def test_what_more_sessions_hold_is_missed_more() -> None:
    assert (
        FREQUENCIES.absence(["often", "once"])
        > FREQUENCIES.absence(["always", "once"])
        > FREQUENCIES.absence(["always", "often"])
    )


def test_absent_lines_come_with_their_share_the_commonest_first() -> None:
    assert list(FREQUENCIES.absent(["new"])) == [("always", 1.0), ("often", 0.75)]
    assert list(FREQUENCIES.absent(["always"])) == [("often", 0.75)]
    assert list(FREQUENCIES.absent(["always"], at_least=0.0)) == [("often", 0.75), ("once", 0.25)]
    assert list(FREQUENCIES.absent(["always"], at_least=0.76)) == []
    assert list(FREQUENCIES.absent(["always", "often"])) == []


def test_a_line_set_has_each_line_once_by_frequency_then_by_text_and_lines_never_seen_last() -> None:
    texts = ["zebra", "once", "always", "apple", "often", "often", "zebra", "always"]
    assert FREQUENCIES.line_set(texts) == ["always", "often", "once", "apple", "zebra"]
    ties = LineFrequencies.of([session("b", "a", "c"), session("c", "x")])
    assert ties.line_set(["x", "b", "a", "c"]) == ["c", "a", "b", "x"]


@given(TEXTS, st.randoms(use_true_random=False))
def test_a_line_set_does_not_depend_on_the_order_of_the_lines(texts: list[str], random: object) -> None:
    shuffled = list(texts)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert FREQUENCIES.line_set(shuffled) == FREQUENCIES.line_set(texts)
    assert sorted(FREQUENCIES.line_set(texts)) == sorted(set(texts))


# Five sessions, in which "end" comes after 99, 99, 99, 999 and 99 seconds.
TIMED = LineFrequencies.of(
    [session("begin", "end", times_s=[5000.0, 5000.0 + after_s]) for after_s in (99, 99, 99, 999, 99)]
)


def test_a_line_is_timed_by_the_median_and_the_spread_of_its_first_coming() -> None:
    known = TIMED.lines["end"]
    assert known.first_s == 99.0
    # log1p of the times: four times ln 100 and once ln 1000; the standard deviation is 0.4 ln 10.
    assert known.spread == pytest.approx(0.4 * math.log(10))
    begin = TIMED.lines["begin"]
    assert (begin.first_s, begin.spread) == (0.0, 0.7)  # no line is expected to the hair


def test_the_time_of_a_line_that_few_sessions_hold_is_not_known() -> None:
    frequencies = LineFrequencies.of([session("begin", "end")] * 4)
    assert frequencies.lines["end"].first_s is frequencies.lines["end"].spread is None
    assert frequencies.untimely(["begin", "end"], [0.0, 1e9]) == (0.0, None)


def test_an_untimely_line_is_told_with_its_index_and_its_distance_in_standard_deviations() -> None:
    spread = 0.4 * math.log(10)
    z, at = TIMED.untimely(["begin", "new", "end"], [70.0, 71.0, 70.0 + 9999.0])
    assert z == pytest.approx((math.log(10_000) - math.log(100)) / spread)
    assert at == 2
    # Early is not untimely; only its first coming counts, and times count from the session's first line.
    assert TIMED.untimely(["begin", "end", "end"], [70.0, 70.0, 70.0 + 9999.0]) == (0.0, None)
    assert TIMED.untimely(["begin", "end"], [70.0, 169.0]) == (0.0, None)


def test_the_most_untimely_line_is_the_one_that_is_told() -> None:
    z, at = TIMED.untimely(["new", "end", "begin"], [0.0, 2e3, 1e6])
    assert z == pytest.approx(math.log1p(1e6) / 0.7)
    assert at == 2


def test_a_clock_that_runs_backwards_makes_no_line_earlier_than_the_first() -> None:
    assert TIMED.untimely(["begin", "end"], [1000.0, 10.0]) == TIMED.untimely(["begin", "end"], [1000.0, 1000.0])
    assert LineFrequencies.of([session("a", "b", times_s=[50.0, 10.0])] * 5).lines["b"].first_s == 0.0


def test_lines_without_known_times_are_timely() -> None:
    assert TIMED.untimely([], []) == (0.0, None)
    assert TIMED.untimely(["new"], [3.0]) == (0.0, None)


def test_no_training_sessions_mean_that_nothing_is_known_and_nothing_missed() -> None:
    assert LineFrequencies.of([]) == EMPTY
    assert "x" not in EMPTY
    assert EMPTY.absence(["x"]) == 0.0
    assert list(EMPTY.absent(["x"])) == []
    assert EMPTY.line_set(["b", "a", "b"]) == ["a", "b"]
    assert EMPTY.untimely(["x"], [1.0]) == (0.0, None)


def test_json_gives_back_the_same_frequencies() -> None:
    frequencies = LineFrequencies.of(SESSIONS)
    again = LineFrequencies.from_json(frequencies.to_json())
    assert again == frequencies
    assert list(again.lines) == list(frequencies.lines)
    for each in nova34().sessions[100:130]:
        assert again.absence(each.texts) == frequencies.absence(each.texts)
        assert again.untimely(each.texts, each.times_s) == frequencies.untimely(each.texts, each.times_s)


@pytest.mark.parametrize("values", [{}, {"sessions": 1}, {"sessions": 1, "lines": {"a": [1, 2.0]}}])
def test_json_in_which_something_is_missing_is_refused(values: dict[str, object]) -> None:
    with pytest.raises((KeyError, TypeError)):
        LineFrequencies.from_json(values)
