"""What a partition owes its next transaction, what comes back of it, and how time passes on it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from loggpt_stream.alerts.alert import JudgedSession
from loggpt_stream.daemon.partition import Partition
from loggpt_stream.daemon.state_formats import STATE_FORMATS
from loggpt_stream.kafka.changelog import Changelog
from loggpt_stream.lines.gathering import Gathering
from loggpt_stream.lines.masks import DEFAULT_RULES, MaskRule, Masks
from loggpt_stream.lines.record import Record
from loggpt_stream.lines.rules import SessionRules
from loggpt_stream.model.calibration import Calibration, Judge, Verdict
from loggpt_stream.model.drift_mode import DriftMode
from loggpt_stream.model.session_score import SessionScore
from testing.tiny_bundle import judged_early_by

if TYPE_CHECKING:
    from loggpt_stream.lines.session import Session
    from loggpt_stream.message import Message

CALIBRATION = judged_early_by(None)

INSTANCES = [f"{n:08d}-0000-4000-8000-000000000000" for n in range(10)]
START_S = 1_795_442_888.0  # 2026-11-23 14:08:08 UTC


def line(instance: str, second: int, text: str = "VM Started") -> bytes:
    return f"2026-11-23 14:08:{second:02d}.000 7 INFO nova.compute.manager [-] [instance: {instance}] {text}".encode()


def record(value: bytes | None, offset: int) -> Record:
    return Record(value, "input", 0, offset, timestamp_s=START_S + 3600)


def replace_threshold(threshold: float) -> Calibration:
    (kind,) = CALIBRATION.kinds.values()
    return Calibration({"instance": replace(kind, threshold=threshold)})


def partition(
    max_future_s: float = 10,
    *,
    calibration: Calibration | None = None,
    mask_rules: tuple[MaskRule, ...] = DEFAULT_RULES,
    changelog: Changelog | None = None,
) -> Partition:
    rules = SessionRules(idle_gap_s=20, max_future_s=max_future_s)
    kinds = calibration or Calibration({})
    return Partition(
        "input",
        0,
        Gathering(rules, Masks(mask_rules)),
        lambda: Judge(kinds, DriftMode.ADAPT),
        changelog or Changelog("group input", STATE_FORMATS),
    )


def state(of: Partition) -> list[Message]:
    """Return the records for the state topic, of all that the partition has to say."""
    pending_commit = of.take()
    assert pending_commit is not None
    return pending_commit.state


def restored(stored: list[Message], **change: Any) -> Partition:
    """Return a partition that knows nothing but what is stored."""
    changelog = Changelog("group input", STATE_FORMATS)
    again = partition(changelog=changelog, **change)
    again.restore(changelog.read((each.key, each.value) for each in stored))
    return again


def judged(session: Session) -> JudgedSession:
    score = SessionScore(np.zeros(len(session.lines)), [], {})
    return JudgedSession("input", 0, session, score, Verdict())


def feed(to: Partition, value: bytes | None, offset: int) -> list[str]:
    return [session.key for session in to.feed(record(value, offset), now_s=START_S + 7200)]


def test_nothing_read_means_nothing_to_commit() -> None:
    assert partition().take() is None


def test_what_was_taken_is_not_taken_again() -> None:
    p = partition()
    feed(p, line(INSTANCES[0], 10), 5)
    pending_commit = p.take()
    assert pending_commit is not None
    assert pending_commit.position == 6
    assert p.take() is None


def test_a_closed_session_is_pending_until_it_is_judged_and_comes_back_until_then() -> None:
    p, stored = partition(), []
    feed(p, line(INSTANCES[0], 10), 5)
    assert feed(p, line(INSTANCES[1], 40), 6) == [INSTANCES[0]]
    stored += state(p)
    assert list(restored(stored).pending) == [(5, 0)]
    p.judged(judged(p.pending[5, 0]))
    pending_commit = p.take()
    assert pending_commit is not None
    assert [each.session.key for each in pending_commit.judged] == [INSTANCES[0]]
    stored += pending_commit.state
    again = restored(stored)
    assert not again.pending
    assert list(again.sessionizer.tables.by_opening) == [("instance", INSTANCES[1])]
    assert again.position == 7


def test_an_undecodable_record_counts_as_read_and_is_a_dead_letter_once() -> None:
    p = partition()
    assert feed(p, None, 9) == []
    pending_commit = p.take()
    assert pending_commit is not None
    assert pending_commit.position == 10
    assert [(each.record.offset, each.error.reason) for each in pending_commit.rejected] == [(9, "null_value")]
    feed(p, line(INSTANCES[0], 10), 10)
    again = p.take()
    assert again is not None
    assert again.rejected == []


def test_sessions_gathered_by_other_rules_or_masks_are_not_judged_after_a_restart_nor_after_the_next() -> None:
    p = partition()
    feed(p, line(INSTANCES[0], 10), 5)
    stored = state(p)
    other = restored(stored, mask_rules=DEFAULT_RULES[:-1])
    assert [each.outdated for each in other.sessionizer.tables.by_opening.values()] == [True]
    feed(other, line(INSTANCES[1], 11), 6)
    again = restored(stored + state(other), mask_rules=DEFAULT_RULES[:-1])
    assert [each.outdated for each in again.sessionizer.tables.by_opening.values()] == [True, False]
    assert again.judge.judge("instance", {}, outdated=True).unjudged == "outdated"


def test_where_a_new_group_begins_is_stored_before_anything_is_read() -> None:
    p = partition()
    p.begin_at(41)
    assert restored(state(p)).position == 41


def test_time_that_passed_on_a_silent_partition_is_not_waited_for_again_after_a_restart() -> None:
    p = partition()
    feed(p, line(INSTANCES[0], 10), 0)
    feed(p, line(INSTANCES[1], 10), 1)
    stored = state(p)
    now_s = START_S + 7200
    p.tick(now_s + 15, caught_up=True, clock_speed=1)
    p.begin_at(2)
    again = restored(stored + state(p))
    assert again.tick(now_s + 1000, caught_up=True, clock_speed=1) == []
    assert again.tick(now_s + 1004, caught_up=True, clock_speed=1) == []
    assert len(again.tick(now_s + 1005, caught_up=True, clock_speed=1)) == 2


def test_what_drift_did_to_a_threshold_survives_a_restart() -> None:
    p = partition(calibration=CALIBRATION)
    monitor = p.judge.monitors["instance"]
    for _ in range(4):
        monitor.see(1.5)
    feed(p, line(INSTANCES[0], 10), 0)
    assert monitor.threshold > 1.0
    stored = state(p)
    again = restored(stored, calibration=CALIBRATION)
    assert again.judge.monitors["instance"].threshold == monitor.threshold
    fresh = restored(stored, calibration=replace_threshold(0.9))
    assert fresh.judge.monitors["instance"].threshold == 0.9


def test_wall_clock_closes_a_silent_partition_only_once_it_has_caught_up() -> None:
    p = partition()
    feed(p, line(INSTANCES[0], 10), 0)
    now_s = START_S + 7200
    assert p.tick(now_s + 1000, caught_up=False, clock_speed=1) == []
    assert p.tick(now_s + 1000 + 19.9, caught_up=True, clock_speed=1) == []
    assert [s.close_reason for s in p.tick(now_s + 1000 + 20, caught_up=True, clock_speed=1)] == ["idle"]


def test_who_was_frozen_does_not_close_what_may_have_got_lines_meanwhile() -> None:
    p = partition()
    feed(p, line(INSTANCES[0], 10), 0)
    now_s = START_S + 7200
    assert p.tick(now_s + 1, caught_up=True, clock_speed=1) == []
    assert p.tick(now_s + 3600, caught_up=True, clock_speed=1) == []
    # The second that did pass in silence counts, the hour in which nobody looked does not.
    assert p.tick(now_s + 3600 + 18.9, caught_up=True, clock_speed=1) == []
    assert len(p.tick(now_s + 3600 + 19, caught_up=True, clock_speed=1)) == 1


def test_time_in_which_reading_was_paused_now_and_then_is_not_counted_but_the_rest_is() -> None:
    p = partition()
    feed(p, line(INSTANCES[0], 10), 0)
    now_s = START_S + 7200
    closed = []
    for turn in range(1, 60):
        closed += p.tick(now_s + turn, caught_up=turn % 5 != 0, clock_speed=1)
        assert not closed or turn > 22
    assert len(closed) == 1


def test_records_that_say_nothing_of_any_session_are_silence() -> None:
    p = partition()
    feed(p, line(INSTANCES[0], 10), 0)
    now_s = START_S + 7200
    closed = []
    for second in range(1, 21):
        # A dead letter, and a line of no session from a host whose clock lags.
        p.feed(record(b'{"cut off', 2 * second), now_s + second)
        p.feed(record(b"2026-11-23 14:08:09.000 7 INFO nova.api [-] hello", 2 * second + 1), now_s + second)
        closed += p.tick(now_s + second, caught_up=True, clock_speed=1)
        assert bool(closed) == (second == 20)


def test_a_dead_letter_that_wakes_a_frozen_process_does_not_make_it_count_the_time_it_was_frozen() -> None:
    p = partition()
    feed(p, line(INSTANCES[0], 10), 0)
    now_s = START_S + 7200
    assert p.tick(now_s + 1, caught_up=True, clock_speed=1) == []
    p.feed(record(b'{"cut off', 1), now_s + 3600)
    assert p.tick(now_s + 3600, caught_up=True, clock_speed=1) == []
    assert p.tick(now_s + 3600 + 18.9, caught_up=True, clock_speed=1) == []
    assert len(p.tick(now_s + 3600 + 19, caught_up=True, clock_speed=1)) == 1


@pytest.mark.parametrize("timestamp_s", [-0.001, 1_795_446.488, 1_795_446_488_000_000.0], ids=["none", "s", "ns"])
def test_records_without_a_plausible_timestamp_count_as_coming_now(timestamp_s: float) -> None:
    p, stored = partition(), []
    # The first has no time but its record's.
    values = f"instance {INSTANCES[2]} came".encode(), line(INSTANCES[0], 10), line(INSTANCES[1], 40)
    for offset, value in enumerate(values):
        stamped = replace(record(value, offset), timestamp_s=timestamp_s)
        closed = [session.key for session in p.feed(stamped, now_s=START_S + 7200)]
        assert closed == [[], [INSTANCES[2]], [INSTANCES[0]]][offset]
    stored += state(p)
    again = restored(stored)
    assert list(again.sessionizer.tables.by_opening) == [("instance", INSTANCES[1])]
    assert len(again.pending) == 2


def test_wall_clock_runs_faster_where_a_replay_asks_for_it() -> None:
    p = partition()
    feed(p, line(INSTANCES[0], 10), 0)
    assert len(p.tick(START_S + 7200 + 2, caught_up=True, clock_speed=10)) == 1


def test_a_fresh_partition_does_not_tick() -> None:
    assert partition().tick(START_S, caught_up=True, clock_speed=1) == []


def test_a_line_from_the_future_counts_from_its_arrival() -> None:
    p = partition(max_future_s=10)
    ahead = line(INSTANCES[0], 10).replace(b"2026-11-23", b"2036-11-23")
    feed(p, ahead, 0)
    assert p.sessionizer.watermark_s == START_S + 3600 + 10
