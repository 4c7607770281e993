"""Tracebacks: the same event ends as the same text, in one record or as one record a line."""

from __future__ import annotations

import functools
import lzma
from importlib.resources import files
from weakref import ref

import pytest

from loggpt_stream.lines.continuation import Parents, TracebackReader
from loggpt_stream.lines.decode import decode
from loggpt_stream.lines.masks import Masks
from loggpt_stream.lines.names import Fate
from loggpt_stream.lines.record import Event, Record, UndecodableError
from loggpt_stream.lines.rules import SessionRules
from loggpt_stream.lines.session import MAX_RAW_CHARS, Session
from loggpt_stream.lines.sessionizer import Sessionizer

VM = "b9000ad5-4f3c-4d16-8d3e-0ba96b7a2f11"
TRACEBACK = (
    "Traceback (most recent call last):",
    '  File "/usr/lib/python3/dist-packages/nova/compute/manager.py", line 2500, in spawn',
    "    self.driver.spawn(context)",
    "KeyError: 'port'",
    "",
    "During handling of the above exception, another exception occurred:",
    "",
    "Traceback (most recent call last):",
    '  File "/usr/lib/python3/dist-packages/nova/virt/driver.py", line 77, in spawn',
    "nova.exception.NovaException: no port 1234",
)


def event(
    message: str,
    *,
    time_s: float = 100.0,
    logger: str = "nova.compute.manager",
    pid: str = "7",
    source: str = "",
    continuation: tuple[str, ...] = (),
    fragment: bool = False,
    instance: str | None = VM,
) -> Event:
    return Event(
        time_s=time_s,
        level="ERROR" if logger else "",
        logger=logger,
        message=message,
        raw=f"raw {message}",
        continuation=continuation,
        fragment=fragment,
        instance_id=instance,
        source=source,
        pid=pid,
    )


def sessions_of(*events: Event) -> tuple[list[Session], Sessionizer]:
    sessionizer = Sessionizer(SessionRules(), Masks())
    closed = [session for i, each in enumerate(events) for session in sessionizer.add(each, i, each.time_s)]
    return closed + sessionizer.flush(), sessionizer


def exception_line(lines: tuple[str, ...]) -> str:
    reader = TracebackReader()
    for line in lines:
        reader.read(line)
    return reader.exception


def test_the_last_exception_line_is_found_among_frames_and_chained_tracebacks() -> None:
    assert exception_line(TRACEBACK) == "nova.exception.NovaException: no port 1234"


@pytest.mark.parametrize(
    "lines",
    [(), ("no traceback",), ("ValueError: not in a traceback",), TRACEBACK[:3]],
    ids=["nothing", "plain", "exception_alone", "cut_off"],
)
def test_without_a_whole_traceback_there_is_no_exception_line(lines: tuple[str, ...]) -> None:
    assert exception_line(lines) == ""


def test_the_reader_says_when_a_new_exception_line_came() -> None:
    reader = TracebackReader()
    assert [reader.read(line) for line in TRACEBACK] == [False] * 3 + [True] + [False] * 5 + [True]
    assert reader.exception == TRACEBACK[-1]


def test_an_exception_of_several_lines_is_known_by_its_first() -> None:
    lines = ("Traceback (most recent call last):", "  frame", "libvirtError: no domain", "Command: ssh", "Exit code: 1")
    assert exception_line(lines) == "libvirtError: no domain"


def test_one_record_and_one_record_a_line_end_as_the_same_text_and_raw() -> None:
    head = "Instance failed to spawn"
    (whole,), _ = sessions_of(event(head, continuation=TRACEBACK))
    (pieces,), sessionizer = sessions_of(event(head), *(event(line, fragment=True) for line in TRACEBACK))
    assert whole.texts == [
        "ERROR nova.compute.manager Instance failed to spawn nova.exception.NovaException: no port <n4>"
    ]
    assert pieces.texts == whole.texts
    assert pieces.lines[0].raw == whole.lines[0].raw
    assert whole.lines[0].raw.endswith("\n" + "\n".join(TRACEBACK))
    assert sessionizer.fates == {"line": 1, "continuation": len(TRACEBACK)}


def test_pieces_find_their_event_among_lines_of_other_writers() -> None:
    other = "c0ffee00-4f3c-4d16-8d3e-0ba96b7a2f11"
    closed, _ = sessions_of(
        event("a", pid="7"),
        event("b", pid="8", instance=other),
        *(event(line, pid="7", fragment=True) for line in TRACEBACK[:4]),
        event("c", logger="nova.virt", pid="7", instance=other),
        event(TRACEBACK[4], pid="7", fragment=True),
    )
    texts = {session.key: session.texts for session in closed}
    assert texts[VM] == ["ERROR nova.compute.manager a KeyError: 'port'"]
    assert texts[other] == ["ERROR nova.compute.manager b", "ERROR nova.virt c"]


def test_pieces_of_the_same_process_number_on_another_host_stay_apart() -> None:
    (session,), sessionizer = sessions_of(event("a", source="cmp01"), event("    frame", source="cmp02", fragment=True))
    assert session.lines[0].raw == "raw a"
    assert sessionizer.fates[Fate.ORPHAN_CONTINUATION] == 1


def test_a_piece_of_another_time_is_no_piece_of_this_event() -> None:
    (session,), sessionizer = sessions_of(event("a"), event("    frame", time_s=100.001, fragment=True))
    assert session.lines[0].raw == "raw a"
    assert sessionizer.fates[Fate.ORPHAN_CONTINUATION] == 1


def test_frames_without_their_event_are_counted_and_their_exception_stands_alone() -> None:
    (session,), sessionizer = sessions_of(event("    frame", fragment=True), event("KeyError: 'x'", fragment=True))
    assert session.texts == ["ERROR nova.compute.manager KeyError: 'x'"]
    assert sessionizer.fates == {"orphan_continuation": 1, "line": 1}


def test_a_traceback_without_its_event_becomes_one_line_with_its_exception() -> None:
    (pieces,), _ = sessions_of(*(event(line, fragment=True) for line in TRACEBACK))
    (whole,), _ = sessions_of(event(TRACEBACK[0], continuation=TRACEBACK[1:]))
    assert pieces.texts == whole.texts
    assert len(pieces.lines) == 1
    assert pieces.texts[0].endswith(" nova.exception.NovaException: no port <n4>")


def test_a_piece_of_a_line_without_key_shares_its_fate() -> None:
    closed, sessionizer = sessions_of(event("a", instance=None), event(TRACEBACK[0], fragment=True, instance=None))
    assert closed == []
    assert sessionizer.fates == {"unkeyed": 2}


def test_a_piece_that_comes_after_its_session_closed_is_counted() -> None:
    closed, sessionizer = sessions_of(
        event("a", time_s=100.0),
        event("b", time_s=400.0, logger="nova.virt", instance=None),
        event(TRACEBACK[0], time_s=100.0, fragment=True),
    )
    assert [session.texts for session in closed] == [["ERROR nova.compute.manager a"]]
    assert closed[0].lines[0].raw == "raw a"
    assert sessionizer.fates[Fate.LATE_CONTINUATION] == 1


def test_lines_without_header_continue_the_newest_event_of_their_source() -> None:
    (session,), sessionizer = sessions_of(
        event("a", source="x"),
        event("other", source="y", instance=None),
        event("Exit code: 1", source="x", logger="", pid="", instance=None, time_s=130.0, fragment=True),
    )
    assert session.lines[0].raw == "raw a\nExit code: 1"
    assert sessionizer.fates == {"line": 1, "unkeyed": 1, "continuation": 1}


def test_lines_without_header_after_a_piece_continue_the_event_of_that_piece() -> None:
    (session,), _ = sessions_of(
        event("a", pid="7"),
        event("b", pid="8"),
        event("ProcessExecutionError: failed", pid="7", fragment=True),
        event("Exit code: 1", logger="", pid="", instance=None, fragment=True),
    )
    assert [line.raw for line in session.lines] == ["raw a\nProcessExecutionError: failed\nExit code: 1", "raw b"]


def test_a_line_without_header_and_without_event_before_it_is_unkeyed() -> None:
    closed, sessionizer = sessions_of(event("garbage", logger="", pid="", instance=None, fragment=True))
    assert closed == []
    assert sessionizer.fates == {"unkeyed": 1}


def test_the_raw_text_of_an_event_is_bounded() -> None:
    (session,), _ = sessions_of(event("a"), *(event(" " + "x" * 1000, fragment=True) for _ in range(10)))
    assert len(session.lines[0].raw) == MAX_RAW_CHARS
    (whole,), _ = sessions_of(event("a", continuation=(" " + "x" * 10_000,)))
    assert len(whole.lines[0].raw) == MAX_RAW_CHARS


def test_the_memory_of_events_is_bounded_and_forgets_the_oldest() -> None:
    parents = Parents()
    for number in range(3000):
        parents.remember(event("a", pid=str(number), source=f"s{number}"), None)
    assert len(parents._of_writer) == len(parents._of_source) == 1024
    assert parents.find(event("x", pid="0", source="s0", fragment=True)) is None
    assert parents.find(event("x", pid="2999", source="s2999", fragment=True)) is not None


@functools.cache
def recorded_events() -> list[Event]:
    raw = lzma.decompress((files("loggpt_stream") / "data/nova34/nova34.log.xz").read_bytes())
    found: list[Event] = []
    for offset, value in enumerate(raw.splitlines()):
        try:
            found += decode(Record(value, "t", 0, offset, 0.0))
        except UndecodableError:
            continue
    return found


def test_in_a_recording_every_piece_of_a_traceback_finds_its_event() -> None:
    _, sessionizer = sessions_of(*recorded_events())
    assert sessionizer.fates[Fate.ORPHAN_CONTINUATION] == 0
    assert sessionizer.fates[Fate.LATE_CONTINUATION] == 0
    assert sessionizer.fates[Fate.CONTINUATION] > 10_000


def test_a_closed_session_does_not_live_on_for_continuations_that_may_come() -> None:
    sessionizer = Sessionizer(SessionRules(idle_gap_s=5.0), Masks())
    first = Event(time_s=1.0, level="ERROR", logger="nova.x", message="a", raw="a", session_id="one")
    sessionizer.add(first, 0, 1.0)
    (closed,) = sessionizer.advance(10.0)
    gone = ref(closed)
    del closed
    assert gone() is None
    late = Event(time_s=1.0, level="ERROR", logger="nova.x", message="  File", raw="  File", fragment=True)
    assert sessionizer.add(late, 1, 10.0) == []
    assert sessionizer.fates[Fate.LATE_CONTINUATION] == 1
