"""Lines → sessions: when they close and why, which key they get, what becomes of odd lines, and what always holds."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loggpt_stream.lines.masks import Masks
from loggpt_stream.lines.names import CloseReason, Fate
from loggpt_stream.lines.record import Event
from loggpt_stream.lines.rules import KEY_SOURCES, SessionRules
from loggpt_stream.lines.sessionizer import Sessionizer

if TYPE_CHECKING:
    from collections import Counter

    from loggpt_stream.lines.session import Session

RULES = SessionRules(
    idle_gap_s=300.0, max_age_s=3600.0, max_lines=100, terminal=("destroyed",), grace_s=30.0, tombstone_s=600.0
)
NOBODY: dict[str, str | None] = {"session_id": None, "instance_id": None, "request_id": None}


def line(time_s: float, key: str | None = "vm", message: str = "m", **fields: Any) -> Event:
    event = Event(time_s, "INFO", "nova.compute", message, f"raw {message}", instance_id=key, project_id="p")
    return replace(event, **fields)


class Feed:
    """A sessionizer whose lines arrive when they are dated, unless said otherwise; offsets count up from 0."""

    def __init__(self, rules: SessionRules = RULES, **limits: Any) -> None:
        self.sessionizer = Sessionizer(rules, Masks(), **limits)
        self.offsets = itertools.count()

    def add(self, event: Event, arrival_s: float = math.inf) -> list[Session]:
        return self.sessionizer.add(event, next(self.offsets), arrival_s)


# When a session closes


def test_a_session_closes_exactly_at_the_idle_gap_and_not_before() -> None:
    feed = Feed()
    feed.add(line(1000.0))
    assert feed.add(line(1299.999, "other")) == []
    (closed,) = feed.add(line(1300.0, "other"))
    assert (closed.key, closed.close_reason, closed.closed_s) == ("vm", "idle", 1300.0)
    assert feed.sessionizer.open_sessions == 1


def test_each_line_starts_the_idle_gap_anew() -> None:
    feed = Feed()
    for time_s in (1000.0, 1299.0, 1598.0, 1897.0):
        assert feed.add(line(time_s)) == []
    (closed,) = feed.sessionizer.advance(2197.0)
    assert [each.time_s for each in closed.lines] == [1000.0, 1299.0, 1598.0, 1897.0]
    assert (closed.opened_s, closed.last_seen_s, closed.closed_s) == (1000.0, 1897.0, 2197.0)


def test_a_line_of_the_key_itself_after_the_gap_starts_a_new_session() -> None:
    feed = Feed()
    feed.add(line(1000.0))
    (closed,) = feed.add(line(1300.0))
    assert len(closed.lines) == 1
    (second,) = feed.sessionizer.flush()
    assert (second.first_offset, second.part, second.late) == (1, 0, False)


def test_the_wall_clock_may_close_what_is_quiet() -> None:
    feed = Feed()
    feed.add(line(1000.0))
    assert feed.sessionizer.advance(1299.999) == []
    assert [closed.key for closed in feed.sessionizer.advance(1300.0)] == ["vm"]
    assert feed.sessionizer.advance(1e9) == []


def test_the_watermark_never_goes_back() -> None:
    feed = Feed()
    feed.add(line(1000.0))
    feed.sessionizer.advance(500.0)
    feed.add(line(900.0, "other"))
    assert feed.sessionizer.watermark_s == 1000.0
    assert {closed.closed_s for closed in feed.sessionizer.advance(1300.0)} == {1300.0}


def test_a_busy_session_closes_at_its_maximum_age_and_goes_on_as_its_next_part() -> None:
    feed = Feed()
    closed = [each for second in range(0, 3601, 100) for each in feed.add(line(1000.0 + second))]
    (first,) = closed
    assert (first.close_reason, first.closed_s, len(first.lines), first.part) == ("max_age", 4600.0, 36, 0)
    (second,) = feed.sessionizer.flush()
    assert (second.part, second.late, second.first_offset) == (1, False, 36)


def test_a_session_just_younger_than_the_maximum_age_stays_open() -> None:
    feed = Feed()
    for second in (*range(0, 3600, 200), 3599.999):
        assert feed.add(line(1000.0 + second)) == []


def test_what_was_due_first_is_the_reason_even_when_both_are_due_at_once() -> None:
    feed = Feed(replace(RULES, max_age_s=400.0))
    feed.add(line(1000.0, "old"))
    feed.add(line(1200.0, "old"))
    feed.add(line(1150.0, "quiet"))
    reasons = {each.key: (each.close_reason, each.closed_s) for each in feed.sessionizer.advance(9000.0)}
    assert reasons == {"old": ("max_age", 1400.0), "quiet": ("idle", 1500.0)}


def test_a_session_closes_with_its_last_allowed_line_and_parts_are_counted() -> None:
    feed = Feed(replace(RULES, max_lines=3))
    closed = [each for i in range(8) for each in feed.add(line(1000.0 + i))]
    closed += feed.sessionizer.flush()
    assert [(each.close_reason, each.part, len(each.lines), each.first_offset) for each in closed] == [
        ("max_lines", 0, 3, 0),
        ("max_lines", 1, 3, 3),
        ("end_of_input", 2, 2, 6),
    ]
    assert closed[0].closed_s == 1002.0
    assert len({each.fingerprint() for each in closed}) == 3


def test_a_terminal_line_closes_its_session_after_the_grace_time() -> None:
    feed = Feed()
    feed.add(line(1000.0))
    feed.add(line(1001.0, message="instance destroyed."))
    assert feed.sessionizer.advance(1030.999) == []
    (closed,) = feed.sessionizer.advance(1031.0)
    assert (closed.close_reason, closed.closed_s, len(closed.lines)) == ("terminal", 1031.0, 2)


@pytest.mark.parametrize("ids", [{"session_id": "run"}, {"instance_id": None, "request_id": "req-1"}])
def test_a_terminal_line_ends_no_session_but_an_instances(ids: dict[str, Any]) -> None:
    feed = Feed()
    feed.add(replace(line(1000.0, message="instance destroyed."), **ids))
    assert feed.sessionizer.advance(1299.0) == []
    (closed,) = feed.sessionizer.advance(1300.0)
    assert closed.close_reason == "idle"


def test_parts_that_begin_in_one_record_are_told_apart_by_their_place_in_it() -> None:
    sessionizer = Sessionizer(replace(RULES, max_lines=2), Masks())
    closed = [each for i in range(4) for each in sessionizer.add(line(1000.0 + i), 7, math.inf)]
    closed += [each for i in range(2) for each in sessionizer.add(line(1010.0 + i), 8, math.inf)]
    assert [(each.first_offset, each.first_index) for each in closed] == [(7, 0), (7, 2), (8, 0)]


def test_time_that_passes_without_records_closes_what_is_due_and_leaves_no_other_trace() -> None:
    feed = Feed()
    feed.add(line(1000.0, "quiet"))
    feed.add(line(1200.0, "goes on"))
    assert [(each.key, each.closed_s) for each in feed.sessionizer.close_due(1300.0)] == [("quiet", 1300.0)]
    feed.add(line(1201.0, "goes on"))
    feed.add(line(1202.0, "new"))
    seen = {each.key: (each.opened_s, each.last_seen_s) for each in feed.sessionizer.flush()}
    assert seen == {"goes on": (1200.0, 1201.0), "new": (1202.0, 1202.0)}


def headerless(text: str, **fields: Any) -> Event:
    return replace(Event(1000.0, "", "", text, text, fragment=True), **fields)


def test_lines_without_header_that_name_their_own_sessions_are_not_the_rest_of_one_another() -> None:
    feed = Feed()
    for key, text in (("a", "alpha starts"), ("b", "beta starts"), ("a", "alpha fails"), ("b", "beta ends")):
        feed.add(headerless(text, session_id=key))
    feed.add(line(1000.0, "vm"))
    feed.add(headerless("of another session", session_id="b"))
    assert {each.key: [one.raw for one in each.lines] for each in feed.sessionizer.flush()} == {
        "a": ["alpha starts", "alpha fails"],
        "b": ["beta starts", "beta ends", "of another session"],
        "vm": ["raw m"],
    }


def test_an_access_log_without_headers_goes_by_the_instances_that_it_names() -> None:
    feed = Feed()
    for key in ("a", "b", "a"):
        feed.add(headerless(f"GET /servers/{key} 200", instance_in_text=key))
    assert {each.key: len(each.lines) for each in feed.sessionizer.flush()} == {"a": 2, "b": 1}


def test_what_is_indented_goes_on_even_behind_a_line_without_header() -> None:
    feed = Feed()
    feed.add(headerless("starting with", session_id="a"))
    feed.add(headerless("  --workers 4", session_id="a"))
    (found,) = feed.sessionizer.flush()
    assert [each.raw for each in found.lines] == ["starting with\n  --workers 4"]


def test_a_dropped_line_that_may_have_no_time_of_its_own_moves_no_clock() -> None:
    feed = Feed()
    feed.add(line(1000.0))
    assert feed.add(headerless("*** Starting uWSGI ***", time_s=99_999.0, source="uwsgi.log")) == []
    feed.add(line(1001.0))
    (found,) = feed.sessionizer.flush()
    assert (len(found.lines), feed.sessionizer.watermark_s) == (2, 1001.0)


def test_a_session_has_the_trace_context_that_came_first() -> None:
    feed = Feed()
    for trace in (None, "first", "second"):
        feed.add(line(1000.0, traceparent=trace))
    assert [each.traceparent for each in feed.sessionizer.flush()] == ["first"]


def test_activity_within_the_grace_time_keeps_an_ending_session_open_for_another_grace_time() -> None:
    feed = Feed()
    feed.add(line(1000.0, message="destroyed"))
    feed.add(line(1029.0, message="clean-up"))
    assert feed.sessionizer.advance(1058.9) == []
    (closed,) = feed.sessionizer.advance(1059.0)
    assert (closed.close_reason, len(closed.lines)) == ("terminal", 2)


CLAIMING = replace(RULES, revival=("Claim successful",))


def test_a_claim_after_terminal_words_revives_the_session_and_its_rest_is_not_late() -> None:
    feed = Feed(CLAIMING)
    feed.add(line(1000.0, message="instance destroyed on the first host"))
    feed.add(line(1010.0, message="Claim successful on node cmp02"))
    # Without the claim it would have closed at 1040, and what follows would be late.
    assert feed.add(line(1100.0, message="Took 9.1 seconds to build instance")) == []
    (closed,) = feed.sessionizer.advance(1400.0)
    assert (closed.close_reason, closed.closed_s, closed.late, len(closed.lines)) == ("idle", 1400.0, False, 3)
    assert feed.sessionizer.fates == {"line": 3}


def test_a_revived_session_ends_at_its_next_terminal_line() -> None:
    feed = Feed(CLAIMING)
    for i, message in enumerate(("destroyed", "Claim successful", "destroyed")):
        feed.add(line(1000.0 + i, message=message))
    assert [(each.close_reason, each.closed_s) for each in feed.sessionizer.advance(1032.0)] == [("terminal", 1032.0)]


def test_a_claim_that_follows_no_terminal_words_ends_nothing() -> None:
    feed = Feed(CLAIMING)
    feed.add(line(1000.0, message="Claim successful"))
    assert feed.sessionizer.advance(1299.0) == []
    assert [each.close_reason for each in feed.sessionizer.advance(1300.0)] == ["idle"]


def test_a_claim_after_the_grace_time_revives_nothing() -> None:
    feed = Feed(CLAIMING)
    feed.add(line(1000.0, message="destroyed"))
    (closed,) = feed.add(line(1030.0, message="Claim successful"))
    assert (closed.close_reason, len(closed.lines)) == ("terminal", 1)
    assert [each.late for each in feed.sessionizer.flush()] == [True]


def test_an_ending_session_that_is_kept_open_does_not_hold_up_the_next() -> None:
    feed = Feed()
    feed.add(line(1000.0, "a", "destroyed"))
    feed.add(line(1001.0, "b", "destroyed"))
    feed.add(line(1020.0, "a", "clean-up"))
    assert [(each.key, each.closed_s) for each in feed.sessionizer.advance(1031.0)] == [("b", 1031.0)]
    assert [(each.key, each.closed_s) for each in feed.sessionizer.advance(1050.0)] == [("a", 1050.0)]


def test_what_is_due_at_the_same_time_closes_in_order_of_opening() -> None:
    feed = Feed(replace(RULES, max_age_s=200.0))
    feed.add(line(1000.0, "a"))
    feed.add(line(1000.0, "b"))
    feed.add(line(1100.0, "a"))
    # Both are also quiet for long enough by now, "b" for longer.
    assert [(each.key, each.closed_s) for each in feed.sessionizer.advance(9000.0)] == [("a", 1200.0), ("b", 1200.0)]


def test_grace_is_never_longer_than_the_idle_gap() -> None:
    feed = Feed(replace(RULES, grace_s=900.0))
    feed.add(line(1000.0, message="destroyed"))
    assert [each.closed_s for each in feed.sessionizer.advance(1300.0)] == [1300.0]


def test_without_terminal_texts_nothing_ends_early() -> None:
    feed = Feed(replace(RULES, terminal=()))
    feed.add(line(1000.0, message="destroyed"))
    assert feed.sessionizer.advance(1299.0) == []


def test_flush_closes_all_in_order_of_opening_as_end_of_input() -> None:
    feed = Feed()
    for i, key in enumerate(("a", "b", "c")):
        feed.add(line(1000.0 + i, key))
    feed.add(line(1010.0, "a"))
    closed = feed.sessionizer.flush()
    assert [(each.key, each.close_reason, each.closed_s) for each in closed] == [
        (key, "end_of_input", 1010.0) for key in ("a", "b", "c")
    ]
    assert feed.sessionizer.open_sessions == feed.sessionizer.open_lines == 0
    assert feed.sessionizer.flush() == []


# Odd lines


def test_a_line_from_the_future_counts_as_arriving_a_little_ahead() -> None:
    feed = Feed()
    feed.add(line(1000.0), arrival_s=1000.0)
    assert feed.add(line(999_999.0, "odd"), arrival_s=1001.0) == []
    assert feed.sessionizer.watermark_s == 1011.0
    # Its own time stays on the line; the session goes by the watermark.
    (odd,) = [each for each in feed.sessionizer.flush() if each.key == "odd"]
    assert odd.lines[0].time_s == 999_999.0
    assert (odd.opened_s, odd.last_seen_s) == (1011.0, 1011.0)


def test_a_reordered_line_joins_its_open_session_in_arrival_order() -> None:
    feed = Feed()
    for time_s in (1000.0, 1100.0, 1050.0):
        feed.add(line(time_s))
    (closed,) = feed.sessionizer.flush()
    assert [each.time_s for each in closed.lines] == [1000.0, 1100.0, 1050.0]
    assert not closed.late


def test_a_line_older_than_the_close_of_its_session_starts_a_late_one() -> None:
    feed = Feed()
    feed.add(line(1000.0))
    feed.add(line(1500.0, "other"))
    feed.add(line(1299.999))
    (late,) = [each for each in feed.sessionizer.flush() if each.key == "vm"]
    assert late.late
    assert feed.sessionizer.fates == {"line": 2, "late_line": 1}


def test_a_line_as_old_as_the_close_of_its_session_starts_a_good_one() -> None:
    feed = Feed()
    feed.add(line(1000.0))
    feed.add(line(1500.0, "other"))
    feed.add(line(1300.0))
    (again,) = [each for each in feed.sessionizer.flush() if each.key == "vm"]
    assert not again.late


def test_after_a_late_session_a_new_one_is_good_again() -> None:
    feed = Feed()
    feed.add(line(1000.0))
    feed.add(line(1500.0, "other"))
    feed.add(line(1200.0))
    closed = feed.add(line(2000.0, message="later"))
    assert [(each.key, each.late) for each in closed] == [("other", False), ("vm", True)]
    assert [each.late for each in feed.sessionizer.flush()] == [False]


@pytest.mark.parametrize(("after_close_s", "late"), [(0.0, True), (599.9, True), (600.0, False)])
def test_after_a_terminal_close_a_line_within_the_tombstone_time_is_late(after_close_s: float, late: bool) -> None:
    feed = Feed()
    feed.add(line(1000.0, message="destroyed"))
    feed.sessionizer.advance(1030.0)
    feed.add(line(1030.0 + after_close_s))
    (again,) = feed.sessionizer.flush()
    assert again.late is late


def test_parts_of_a_late_session_are_late_too() -> None:
    feed = Feed(replace(RULES, max_lines=2))
    feed.add(line(1000.0, message="destroyed"))
    feed.sessionizer.advance(1030.0)
    closed = [each for i in range(3) for each in feed.add(line(1040.0 + i))] + feed.sessionizer.flush()
    assert [(each.part, each.late) for each in closed] == [(0, True), (1, True)]


# Limits


def test_past_the_session_limit_the_longest_quiet_closes_and_says_why() -> None:
    feed = Feed(max_open_sessions=2)
    feed.add(line(1000.0, "a"))
    feed.add(line(1001.0, "b"))
    feed.add(line(1002.0, "a"))
    (closed,) = feed.add(line(1003.0, "c"))
    assert (closed.key, closed.close_reason, closed.closed_s) == ("b", "memory", 1003.0)
    feed.add(line(1004.0, "b"))
    (again,) = [each for each in feed.sessionizer.flush() if each.key == "b"]
    assert (again.part, again.late) == (1, False)


def test_past_the_limit_an_ending_session_goes_first_only_if_it_is_the_longest_quiet() -> None:
    feed = Feed(max_open_sessions=2)
    feed.add(line(1000.0, "active"))
    feed.add(line(1001.0, "ending", "destroyed"))
    assert [each.key for each in feed.add(line(1002.0, "new"))] == ["active"]
    assert [each.key for each in feed.add(line(1003.0, "newer"))] == ["ending"]


def test_past_the_line_limit_the_longest_quiet_closes_even_if_it_is_the_newest() -> None:
    feed = Feed(max_open_lines=4)
    for i in range(4):
        assert feed.add(line(1000.0 + i, "a" if i < 3 else "b")) == []
    assert [each.key for each in feed.add(line(1004.0, "b"))] == ["a"]
    assert feed.sessionizer.open_lines == 2
    alone = Feed(max_open_lines=2)
    assert [len(each.lines) for i in range(3) for each in alone.add(line(1000.0 + i))] == [3]


def test_memory_of_closed_sessions_and_requests_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loggpt_stream.lines.tables.MAX_TOMBSTONES", 10)
    monkeypatch.setattr("loggpt_stream.lines.tables.MAX_LINKS", 10)
    feed = Feed(replace(RULES, max_lines=1))
    for i in range(100):
        feed.add(line(1000.0, f"vm{i}", request_id=f"req-{i}"))
    assert len(feed.sessionizer.tables.tombstones) == len(feed.sessionizer.tables.instance_of_request) == 10


# Keys


FULL = {
    "session_id": "run-1",
    "instance_id": "vm-1",
    "instance_in_text": "vm-2",
    "global_request_id": "req-g",
    "request_id": "req-r",
}


@pytest.mark.parametrize(
    ("order", "kind", "key"),
    [
        (KEY_SOURCES, "explicit", "run-1"),
        (KEY_SOURCES[1:], "instance", "vm-1"),
        (KEY_SOURCES[2:], "instance", "vm-2"),
        (KEY_SOURCES[4:], "request", "req-g"),
        (KEY_SOURCES[5:], "request", "req-r"),
        (("request", "explicit"), "request", "req-r"),
        (("instance_in_text", "instance"), "instance", "vm-2"),
    ],
)
def test_the_first_key_of_the_order_wins_and_each_can_be_left_out(order: tuple[str, ...], kind: str, key: str) -> None:
    feed = Feed(replace(RULES, key_order=order))
    feed.add(line(1000.0, **FULL))
    (closed,) = feed.sessionizer.flush()
    assert (closed.kind, closed.key) == (kind, key)
    assert closed.group == (None if kind == "explicit" else "run-1")


def test_a_line_with_a_request_alone_joins_the_instance_that_the_request_named() -> None:
    feed = Feed()
    feed.add(line(1000.0, None, "before", request_id="req-1"))
    feed.add(line(1001.0, "vm", request_id="req-1"))
    feed.add(line(1002.0, None, "after", request_id="req-1"))
    feed.add(line(1003.0, "vm", "named again", request_id="req-1"))
    feed.add(line(1004.0, None, "still", request_id="req-1"))
    sessions = {(each.kind, each.key): len(each.lines) for each in feed.sessionizer.flush()}
    assert sessions == {("request", "req-1"): 1, ("instance", "vm"): 4}


def test_what_a_service_does_by_itself_is_linked_to_no_instance_that_it_names() -> None:
    feed = Feed()
    feed.add(line(1000.0, "vm", request_id="req-1", project_id=None))
    feed.add(line(1001.0, None, "found 3 instances", request_id="req-1", project_id=None))
    sessions = {(each.kind, each.key): len(each.lines) for each in feed.sessionizer.flush()}
    assert sessions == {("instance", "vm"): 1, ("request", "req-1"): 1}


def test_a_request_that_names_a_second_instance_links_none_afterwards() -> None:
    feed = Feed()
    feed.add(line(1000.0, "vm", request_id="req-1"))
    feed.add(line(1001.0, None, instance_in_text="vm-b", request_id="req-1"))
    feed.add(line(1002.0, None, "about whom?", request_id="req-1"))
    # Not even when it names the first one again: it is about several.
    feed.add(line(1003.0, "vm", request_id="req-1"))
    feed.add(line(1004.0, None, "and this?", request_id="req-1"))
    feed.add(line(1005.0, None, "of another", request_id="req-2"))
    sessions = {(each.kind, each.key): len(each.lines) for each in feed.sessionizer.flush()}
    assert sessions == {
        ("instance", "vm"): 2,
        ("instance", "vm-b"): 1,
        ("request", "req-1"): 2,
        ("request", "req-2"): 1,
    }


def test_a_linked_line_does_not_open_a_closed_session_of_its_instance_again() -> None:
    feed = Feed()
    feed.add(line(1000.0, "vm", "destroyed", request_id="req-1"))
    feed.add(line(1001.0, None, "while it is open", request_id="req-1"))
    (closed,) = feed.sessionizer.advance(1031.0)
    assert [len(closed.lines), closed.close_reason] == [2, "terminal"]
    feed.add(line(1032.0, None, "afterwards", request_id="req-1"))
    (after,) = feed.sessionizer.flush()
    assert (after.kind, after.key, after.late) == ("request", "req-1", False)


def test_a_linked_line_that_closes_its_instances_session_does_not_open_it_again() -> None:
    feed = Feed()
    feed.add(line(1000.0, "vm", request_id="req-1"))
    # Nothing came in between: the line itself moves the clock past the idle gap.
    (closed,) = feed.add(line(1300.0, None, "much later", request_id="req-1"))
    assert (closed.key, len(closed.lines)) == ("vm", 1)
    assert [(each.kind, each.key) for each in feed.sessionizer.flush()] == [("request", "req-1")]


def test_a_line_that_names_its_instance_opens_its_session_again_and_is_linked_to_again() -> None:
    feed = Feed()
    feed.add(line(1000.0, "vm", request_id="req-1"))
    feed.sessionizer.advance(1300.0)
    feed.add(line(1301.0, "vm", request_id="req-1"))
    feed.add(line(1302.0, None, request_id="req-1"))
    assert [(each.kind, len(each.lines)) for each in feed.sessionizer.flush()] == [("instance", 2)]


def test_without_the_request_link_such_a_line_stays_with_its_request() -> None:
    feed = Feed(replace(RULES, key_order=("instance", "request")))
    feed.add(line(1001.0, "vm", request_id="req-1"))
    feed.add(line(1002.0, None, request_id="req-1"))
    assert {each.kind for each in feed.sessionizer.flush()} == {"instance", "request"}


def test_a_switched_off_source_teaches_no_request_link() -> None:
    feed = Feed(replace(RULES, key_order=("instance", "request_instance", "request")))
    feed.add(line(1001.0, None, instance_in_text="vm", request_id="req-1"))
    assert [each.kind for each in feed.sessionizer.flush()] == ["request"]


def test_one_name_as_two_kinds_is_two_sessions() -> None:
    feed = Feed()
    feed.add(line(1000.0, None, session_id="same"))
    feed.add(line(1000.0, "same"))
    sessions = feed.sessionizer.flush()
    assert [each.kind for each in sessions] == ["explicit", "instance"]
    assert sessions[0].fingerprint() != sessions[1].fingerprint()


def test_a_line_without_key_is_counted_and_dropped() -> None:
    feed = Feed()
    assert feed.add(line(1000.0, None)) == []
    assert feed.sessionizer.flush() == []
    assert feed.sessionizer.fates == {"unkeyed": 1}
    assert feed.sessionizer.watermark_s == 1000.0


def test_a_line_without_key_is_windowed_by_host_and_service_if_so_ruled() -> None:
    feed = Feed(replace(RULES, unkeyed="window"))
    feed.add(line(1000.0, None, host="cmp01", service="nova-compute"))
    feed.add(line(1001.0, None, host="cmp02", service="nova-compute"))
    feed.add(line(1002.0, None, host="cmp01"))
    feed.add(line(1003.0, None, logger=""))
    assert [(each.kind, each.key) for each in feed.sessionizer.flush()] == [
        ("window", "cmp01/nova-compute"),
        ("window", "cmp02/nova-compute"),
        ("window", "cmp01/nova"),
        ("window", "-/-"),
    ]


# What a session knows


def test_a_session_knows_its_hosts_project_and_masked_lines() -> None:
    feed = Feed()
    feed.add(line(1000.0, host="cmp01", message="took 12 s", project_id=None))
    feed.add(line(1001.0, host="cmp02", project_id="p1"))
    feed.add(line(1002.0, host="cmp01", project_id="p2", logger="", level=""))
    (closed,) = feed.sessionizer.flush()
    assert (closed.hosts, closed.project_id, closed.last_offset) == (["cmp01", "cmp02"], "p1", 2)
    assert closed.texts == ["INFO nova.compute took <n2> s", "INFO nova.compute m", "m"]
    assert closed.lines[0].raw == "raw took 12 s"


def test_a_fingerprint_names_a_session_wherever_it_is_read_from() -> None:
    here, there = Feed(), Feed()
    there.add(line(900.0, "another"))
    for feed in (here, there):
        feed.add(line(1000.25))
    (first,) = here.sessionizer.flush()
    (second,) = [each for each in there.sessionizer.flush() if each.key == "vm"]
    assert first.fingerprint() == second.fingerprint()
    assert 0 <= first.fingerprint() < 2**63


@pytest.mark.parametrize(
    ("rule", "value", "message"),
    [
        ("key_order", ("instance", "uuid"), r"key_order: \['uuid'\]: choose from explicit"),
        ("key_order", (), "key_order: empty"),
        ("unkeyed", "keep", "unkeyed: 'keep': choose from drop, window"),
        ("idle_gap_s", 0.0, "idle_gap_s: 0.0: must be greater than 0"),
        ("max_age_s", -1.0, "max_age_s"),
        ("max_lines", 0, "max_lines"),
        ("grace_s", math.nan, "grace_s: nan"),
        ("max_future_s", -1.0, "max_future_s: -1.0: must be 0 or more"),
        ("tombstone_s", -0.1, "tombstone_s"),
    ],
)
def test_a_wrong_rule_is_refused_by_name_and_value(rule: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SessionRules(**{rule: value})  # type: ignore[arg-type]


# What always holds


@dataclass(frozen=True)
class Arrival:
    """One line: how far its time is from the one before, how long after that it arrives, whose it is."""

    step_s: float
    delay_s: float
    key: str | None
    terminal: bool
    request: str | None


ARRIVALS = st.lists(
    st.builds(
        Arrival,
        step_s=st.sampled_from([0.0, 0.0, 0.001, 0.5, 1.0, 4.0, 5.0, 9.999, 10.0, 40.0, -0.5, -7.0, -60.0, 1e6, -1e6]),
        delay_s=st.sampled_from([0.0, 0.0, 3.0]),
        key=st.sampled_from(["a", "b", "c", "d", None]),
        terminal=st.booleans(),
        request=st.sampled_from([None, "r1", "r2"]),
    ),
    max_size=60,
)
PROPERTY_RULES = st.builds(
    SessionRules,
    idle_gap_s=st.sampled_from([5.0, 10.0]),
    max_age_s=st.sampled_from([7.0, 20.0, 1000.0]),
    max_lines=st.sampled_from([1, 3, 50]),
    terminal=st.just(("destroyed",)),
    revival=st.sampled_from([(), ("1",), ("line",)]),
    grace_s=st.sampled_from([1.0, 5.0, 30.0]),
    max_future_s=st.sampled_from([0.0, 10.0]),
    tombstone_s=st.sampled_from([0.0, 15.0]),
    unkeyed=st.sampled_from(["drop", "window"]),
)


def timeline(arrivals: list[Arrival]) -> list[tuple[Event, float]]:
    """Return events and when they arrive: the arrival clock never goes back, an event's own time may do anything."""
    clock_s, found = 1_700_000_000.0, []
    for number, arrival in enumerate(arrivals):
        time_s = clock_s + arrival.step_s
        if 0 <= arrival.step_s <= 100.0:
            clock_s = time_s + arrival.delay_s
        message = f"line {number} destroyed" if arrival.terminal else f"line {number}"
        event = line(time_s, arrival.key, message, request_id=arrival.request, raw=str(number))
        found.append((event, clock_s))
    return found


@given(
    arrivals=ARRIVALS,
    rules=PROPERTY_RULES,
    max_sessions=st.sampled_from([1, 2, 100]),
    max_lines=st.sampled_from([1, 4, 999]),
)
@settings(max_examples=150, deadline=None)
def test_every_keyed_line_is_in_exactly_one_session_in_order_within_all_limits(
    arrivals: list[Arrival], rules: SessionRules, max_sessions: int, max_lines: int
) -> None:
    feed = Feed(rules, max_open_sessions=max_sessions, max_open_lines=max_lines)
    sessionizer = feed.sessionizer
    closed: list[Session] = []
    for event, arrival_s in timeline(arrivals):
        closed += feed.add(event, arrival_s)
        assert sessionizer.open_sessions <= max_sessions
        assert sessionizer.open_lines <= max_lines
        still_open = list(sessionizer.tables.by_opening.values())
        assert sessionizer.open_sessions == len(still_open)
        assert sessionizer.open_lines == sum(len(session.lines) for session in still_open)
        assert sessionizer.tables.open_bytes == sum(session.bytes for session in still_open)
        assert all(session.close_reason == "" and session.lines for session in still_open)
    closed += sessionizer.flush()

    keyed = [
        number for number, arrival in enumerate(arrivals) if arrival.key or arrival.request or rules.unkeyed == "window"
    ]
    offsets = [each.offset for session in closed for each in session.lines]
    assert sorted(offsets) == keyed
    fates = sessionizer.fates
    assert fates[Fate.LINE] + fates[Fate.LATE_LINE] == len(keyed)
    assert fates[Fate.UNKEYED] == len(arrivals) - len(keyed)
    for session in closed:
        own = [each.offset for each in session.lines]
        assert own == sorted(own)
        assert session.first_offset == own[0]
        assert len(own) <= rules.max_lines
        assert session.close_reason in set(CloseReason)
        assert session.opened_s <= session.last_seen_s <= session.closed_s
        assert session.last_seen_s - session.opened_s < rules.max_age_s
    # Parts of a key are numbered in order, without holes, from a 0 on.
    parts: dict[tuple[str, str], int] = {}
    for session in sorted(closed, key=lambda each: each.first_offset):
        assert session.part in (0, parts.get((session.kind, session.key), -1) + 1)
        parts[session.kind, session.key] = session.part


@given(arrivals=ARRIVALS, rules=PROPERTY_RULES, step_s=st.sampled_from([1.0, 0.7]))
@settings(max_examples=200, deadline=None)
def test_sessions_do_not_depend_on_when_the_clock_is_moved(
    arrivals: list[Arrival], rules: SessionRules, step_s: float
) -> None:
    def run(*, ticking: bool) -> tuple[list[tuple[object, ...]], Counter[Fate]]:
        feed = Feed(rules, max_open_sessions=2)
        closed: list[Session] = []
        for event, arrival_s in timeline(arrivals):
            sessionizer = feed.sessionizer
            if ticking and sessionizer.watermark_s > 0:
                start_s = sessionizer.watermark_s
                gap_s = min(event.time_s, arrival_s + rules.max_future_s) - start_s
                for tick in range(1, min(60, math.ceil(gap_s / step_s))):
                    closed += sessionizer.advance(start_s + tick * step_s)
            closed += feed.add(event, arrival_s)
        closed += feed.sessionizer.flush()
        shown: list[tuple[object, ...]] = [
            (
                *(each.kind, each.key, each.part, each.late, each.opened_s, each.closed_s, each.close_reason),
                *(line.offset for line in each.lines),
            )
            for each in closed
        ]
        return shown, feed.sessionizer.fates

    assert run(ticking=True) == run(ticking=False)
