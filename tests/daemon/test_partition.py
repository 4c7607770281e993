"""What a partition lets be committed, and how time passes on it."""

from __future__ import annotations

import pytest

from loggpt_stream.daemon.partition import Partition
from loggpt_stream.lines.masks import Masks
from loggpt_stream.lines.record import Record, UndecodableError
from loggpt_stream.lines.rules import SessionRules
from loggpt_stream.lines.sessionizer import Sessionizer
from loggpt_stream.model.calibration import Calibration, Judge

INSTANCES = [f"{n:08d}-0000-4000-8000-000000000000" for n in range(10)]
START_S = 1_795_442_888.0  # 2026-11-23 14:08:08 UTC


def line(instance: str, second: int, text: str = "VM Started") -> bytes:
    return f"2026-11-23 14:08:{second:02d}.000 7 INFO nova.compute.manager [-] [instance: {instance}] {text}".encode()


def record(value: bytes | None, offset: int) -> Record:
    return Record(value, "input", 0, offset, timestamp_s=START_S + 3600)


def partition(max_future_s: float = 10) -> Partition:
    sessionizer = Sessionizer(SessionRules(idle_gap_s=20, max_future_s=max_future_s), Masks())
    return Partition("input", 0, sessionizer, Judge(Calibration({})))


def feed(to: Partition, value: bytes | None, offset: int) -> list[str]:
    return [session.key for session in to.feed(record(value, offset), now_s=START_S + 7200)]


def test_nothing_read_means_nothing_to_commit() -> None:
    assert partition().committable is None


def test_committable_is_the_first_line_of_the_session_that_opened_first() -> None:
    p = partition()
    feed(p, line(INSTANCES[0], 10), 5)
    feed(p, line(INSTANCES[1], 11), 6)
    feed(p, line(INSTANCES[0], 12), 7)
    assert p.committable == 5


def test_a_closed_session_is_held_until_it_is_released() -> None:
    p = partition()
    feed(p, line(INSTANCES[0], 10), 5)
    assert feed(p, line(INSTANCES[1], 40), 6) == [INSTANCES[0]]
    hold = p.hold(5)
    assert p.committable == 5
    p.release(hold)
    assert p.committable == 6


def test_a_hold_of_a_later_session_does_not_free_an_earlier_one() -> None:
    p = partition()
    feed(p, line(INSTANCES[0], 10), 5)
    feed(p, line(INSTANCES[1], 40), 6)
    first, second = p.hold(5), p.hold(6)
    p.release(second)
    assert p.committable == 5
    p.release(first)
    assert p.committable == 6


def test_with_nothing_open_or_held_the_next_offset_is_committed() -> None:
    p = partition()
    feed(p, line(INSTANCES[0], 10), 5)
    p.sessionizer.flush()
    assert p.committable == 6


def test_an_undecodable_record_counts_as_read() -> None:
    p = partition()
    with pytest.raises(UndecodableError, match="null_value"):
        feed(p, None, 9)
    assert p.committable == 10


def test_wall_clock_closes_a_silent_partition_only_once_it_has_caught_up() -> None:
    p = partition()
    feed(p, line(INSTANCES[0], 10), 0)
    now_s = START_S + 7200
    assert p.tick(now_s + 1000, caught_up=False, clock_speed=1) == []
    assert p.tick(now_s + 1000 + 19.9, caught_up=True, clock_speed=1) == []
    assert [s.close_reason for s in p.tick(now_s + 1000 + 20, caught_up=True, clock_speed=1)] == ["idle"]


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
