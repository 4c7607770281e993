"""Keys keep the lines of a session together, and are the same after a restart."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from benchmarks.route_sessions import gathered, recorded, routed
from loggpt_stream.errors import UserError
from loggpt_stream.kafka.changelog import Changelog
from loggpt_stream.lines.decode import decode
from loggpt_stream.lines.record import Record
from loggpt_stream.lines.rules import KEY_SOURCES
from loggpt_stream.route import keys as keys_module
from loggpt_stream.route.keys import Choice, Keys
from loggpt_stream.route.partition import RoutedPartition
from loggpt_stream.route.state_formats import STATE_FORMATS

if TYPE_CHECKING:
    from loggpt_stream.kafka.transactions import Stamped
    from loggpt_stream.message import Message

ONE, TWO = (f"{digit * 8}-0000-4000-8000-000000000000" for digit in "ab")
REQUEST, OTHER = (f"req-{digit * 8}-0000-4000-8000-000000000000" for digit in "cd")


def line(text: str, *, request: str | None = None, instance: str | None = None, millisecond: int = 0) -> bytes:
    context = f"[None {request} user project - - - -]" if request else "[-]"
    place = f" [instance: {instance}]" if instance else ""
    return f"2026-11-23 14:08:08.{millisecond:03} 7 INFO nova.compute.manager {context}{place} {text}".encode()


def chosen(keys: Keys, value: bytes) -> Choice:
    return keys.choose(decode(Record(value, "raw", 0, 0, 1.9e9)))


def partition(changelog: Changelog | None = None) -> RoutedPartition:
    return RoutedPartition("raw", 3, KEY_SOURCES, None, changelog or Changelog("group raw", STATE_FORMATS))


def feed(to: RoutedPartition, values: list[bytes], first: int = 0) -> tuple[list[Stamped], list[Message]]:
    """Feed values from an offset on, and return what the transaction writes: records, and state."""
    for offset, value in enumerate(values, first):
        to.feed(Record(value, "raw", 3, offset, 1_795_442_888.123, key=b"old", headers=(("shipper", b"x"),)))
    unsaved = to.take()
    assert unsaved is not None
    return unsaved.records, unsaved.state


def restored(stored: list[Message]) -> RoutedPartition:
    changelog = Changelog("group raw", STATE_FORMATS)
    again = partition(changelog)
    again.restore(changelog.read((each.key, each.value) for each in stored))
    return again


def test_the_key_is_the_name_of_the_session_by_the_order_of_the_session_rules() -> None:
    keys = Keys(KEY_SOURCES)
    assert chosen(keys, line("x", request=REQUEST, instance=ONE)) == Choice("instance", ONE)
    assert chosen(keys, line("x", request=OTHER)) == Choice("request", OTHER)
    assert chosen(keys, b'{"session_id": "mine", "message": "x"}') == Choice("explicit", "mine")
    without_instances = Keys(("request",))
    assert chosen(without_instances, line("x", request=REQUEST, instance=ONE)) == Choice("request", REQUEST)


def test_lines_without_any_key_go_by_host_and_service() -> None:
    syslog = b"<30>1 2026-11-23T14:08:08Z node1 nova-compute 7 - - " + line("x")
    assert chosen(Keys(KEY_SOURCES), syslog) == Choice("window", "node1/nova-compute")
    assert chosen(Keys(KEY_SOURCES), line("x")) == Choice("window", "-/nova")


def test_lines_of_a_request_go_with_the_instance_that_it_named_and_with_none_once_it_named_a_second() -> None:
    keys = Keys(KEY_SOURCES)
    assert chosen(keys, line("early", request=REQUEST)) == Choice("request", REQUEST)
    chosen(keys, line("named", request=REQUEST, instance=ONE))
    assert chosen(keys, line("x", request=REQUEST)) == Choice("instance", ONE)
    chosen(keys, line("named", request=REQUEST, instance=TWO))
    assert chosen(keys, line("x", request=REQUEST)) == Choice("request", REQUEST, about_several=True)


def test_a_traceback_goes_with_its_event_whatever_came_in_between() -> None:
    keys = Keys(KEY_SOURCES)
    chosen(keys, line("failed", request=REQUEST, instance=ONE))
    other_writer = line("y", instance=TWO).replace(b" 7 INFO", b" 8 INFO")
    frames = [b"ERROR nova.compute.manager " + text for text in (b"Traceback (most recent call last):", b"KeyError: 1")]
    chosen(keys, other_writer)
    for frame in frames:
        value = b"2026-11-23 14:08:08.000 7 " + frame
        assert chosen(keys, value) == Choice("continuation", ONE)
    assert chosen(keys, b"  a line without header goes on with the event before it") == Choice("continuation", ONE)


def test_frames_without_the_event_they_belong_to_are_nobodys_and_an_exception_line_stands_alone() -> None:
    keys = Keys(KEY_SOURCES)
    assert chosen(keys, b'  File "a.py", line 1').kind == "window"
    assert chosen(keys, f"KeyError: [instance: {ONE}]".encode()) == Choice("instance", ONE)


def test_a_record_with_lines_of_several_sessions_goes_with_the_first_and_says_so() -> None:
    keys = Keys(KEY_SOURCES)
    both = chosen(keys, b"\n".join([line("nobody's"), line("a", instance=ONE), line("b", instance=TWO)]))
    assert both == Choice("instance", ONE, mixed=True)
    assert not chosen(keys, b"\n".join([line("a", instance=ONE), line("b", instance=ONE)])).mixed


def test_of_very_many_requests_the_oldest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_module, "MAX_LINKS", 1)
    keys = Keys(KEY_SOURCES)
    chosen(keys, line("named", request=REQUEST, instance=ONE))
    chosen(keys, line("named", request=OTHER, instance=TWO))
    assert chosen(keys, line("x", request=REQUEST)).kind == "request"
    assert chosen(keys, line("x", request=OTHER)) == Choice("instance", TWO)


def test_a_record_goes_out_as_it_came_with_its_origin_and_its_own_time() -> None:
    ((key, value, headers, timestamp_ms),), _ = feed(partition(), [line("x", instance=ONE)], first=41)
    assert (key, value, timestamp_ms) == (ONE.encode(), line("x", instance=ONE), 1_795_442_888_123)
    origin = {"loggpt_route_topic": b"raw", "loggpt_route_partition": b"3", "loggpt_route_offset": b"41"}
    assert headers == [("shipper", b"x"), *origin.items()]


def test_a_record_without_event_keeps_its_key_and_is_counted() -> None:
    routes = partition()
    routes.feed(Record(None, "raw", 3, 0, 1.0, key=b"old"))
    routes.feed(Record(b'{"cut": ', "raw", 3, 1, 1.0))
    unsaved = routes.take()
    assert unsaved is not None
    assert [record.key for record in unsaved.records] == [b"old", None]
    assert unsaved.undecodable == {"null_value": 1, "bad_json": 1}


def test_what_was_not_committed_is_owed_once() -> None:
    routes = partition()
    assert routes.take() is None
    routes.begin_at(5)
    assert routes.take() is not None
    assert routes.take() is None


@pytest.mark.parametrize("seed", range(5))
def test_keys_are_the_same_wherever_a_restart_cuts_the_input(seed: int) -> None:
    chance = random.Random(seed)
    records = recorded("nova34.log.xz")
    start = chance.randrange(len(records) - 3_000)
    values = [record.value or b"" for record in records[start : start + 3_000]]
    expected, _ = feed(partition(), values)
    found: list[Stamped] = []
    stored: list[Message] = []
    routes, at = partition(), 0
    while at < len(values):
        until = at + chance.randrange(1, 400)
        written, state = feed(routes, values[at:until], first=at)
        found += written
        stored += state
        at = until
        if chance.random() < 0.5:
            routes = restored(stored)
            assert routes.position == min(at, len(values))
    assert found == expected
    assert len({record.key for record in found}) > 10


def test_a_state_that_does_not_fit_is_refused() -> None:
    changelog = Changelog("group raw", STATE_FORMATS)
    (message,) = changelog.write({"position": 1, "last_record": None, "links": 5, "parents": []}, snapshot=True)
    with pytest.raises(UserError, match="does not fit"):
        restored([message])


@pytest.mark.slow
@pytest.mark.parametrize("count", [4, 16])
def test_routed_partitions_give_every_session_of_one_partition_line_by_line(count: int) -> None:
    records = recorded("nova34.log.xz")
    one = gathered([records])
    assert one.total() > 1_000
    assert gathered(routed(records, lambda _: 0, count)) == one
