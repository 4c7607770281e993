"""What open sessions are said to take is what they take, and raw texts go before sessions do."""

from __future__ import annotations

import gc
import heapq
import tracemalloc
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from loggpt_stream.lines import sessionizer as module
from loggpt_stream.lines.decode import decode
from loggpt_stream.lines.masks import Masks
from loggpt_stream.lines.record import Record
from loggpt_stream.lines.rules import SessionRules
from loggpt_stream.lines.session import raw_bytes
from loggpt_stream.lines.session_changes import SessionChanges, SessionRestore
from loggpt_stream.lines.sessionizer import Sessionizer
from loggpt_stream.lines.tables import Tables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from loggpt_stream.lines.session import Session

TEXTS = (
    "VM Started (Lifecycle Event)",
    "Took 12.34 seconds to build instance.",
    "Attempting claim on node host-3: memory 2048 MB, disk 20 GB, vcpus 1 CPU",
    "During sync_power_state the instance has a pending task (spawning). Skip.",
    "Took 3.21 seconds to spawn the instance on the hypervisor.",
)
TRACEBACK = ("Traceback (most recent call last):", '  File "manager.py", line 7, in spawn', "    raise NoDisk(path)")


def instance(number: int) -> str:
    return f"{number:08d}-0000-4000-8000-000000000000"


def request(number: int) -> str:
    return f"req-{number:08d}-1111-4111-8111-111111111111 3c2f9a1b7d4e4d0f 99aa88bb77cc4e5f - default default"


def value(number: int, turn: int, text: str) -> bytes:
    when = f"2026-11-23 14:{turn:02d}:{number % 60:02d}.{number % 1000:03d}"
    return f"{when} 7 INFO nova.compute.manager [{request(number)}] [instance: {instance(number)}] {text}".encode()


class Gathering:
    """A sessionizer with the journal that its partition keeps, and how far it has read."""

    def __init__(self, max_open_bytes: int = 2**40) -> None:
        self.tables = Tables()
        self.changes = SessionChanges(self.tables)
        self.sessionizer = Sessionizer(
            SessionRules(idle_gap_s=1e5),
            Masks(),
            max_open_bytes=max_open_bytes,
            changes=self.changes,
            tables=self.tables,
        )
        self.offset = 0

    def feed(self, *values: bytes) -> list[Session]:
        closed: list[Session] = []
        for each in values:
            for event in decode(Record(each, "input", 0, self.offset, timestamp_s=1.9e9)):
                closed += self.sessionizer.add(event, self.offset, 1.9e9)
            self.offset += 1
        return closed

    def sessions(self) -> list[Session]:
        return list(self.tables.by_opening.values())


@contextmanager
def traced() -> Iterator[Callable[[], int]]:
    """Yield what tells how many bytes were allocated since, and are still there."""
    tracemalloc.start()
    try:
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]

        def grown() -> int:
            gc.collect()
            return tracemalloc.get_traced_memory()[0] - before

        yield grown
    finally:
        tracemalloc.stop()


def restore(snapshot: dict[str, Any]) -> Tables:
    restored = SessionRestore(3600.0)
    restored.apply(snapshot)
    return restored.tables


@pytest.mark.slow
@pytest.mark.parametrize(("sessions", "lines", "traceback"), [(1_500, 10, ()), (4_000, 1, ()), (400, 2, TRACEBACK * 8)])
def test_memory_of_open_sessions_is_what_is_counted_live_and_restored(
    sessions: int, lines: int, traceback: tuple[str, ...]
) -> None:
    made = Gathering()
    made.feed(value(0, 0, TEXTS[0]))  # what is made once for all
    with traced() as grown:
        for turn in range(lines):
            for number in range(1, sessions + 1):
                made.feed(value(number, turn, TEXTS[turn % len(TEXTS)]), *(each.encode() for each in traceback))
        made.changes.take([])
        assert made.tables.open_bytes == pytest.approx(grown(), rel=0.2)
    assert made.tables.open_bytes == sum(each.bytes for each in made.sessions())
    snapshot = orjson.dumps(made.changes.everything([]))
    with traced() as grown:
        restored = restore(orjson.loads(snapshot))
        assert restored.open_bytes == pytest.approx(grown(), rel=0.2)
    assert restored.open_bytes == sum(each.bytes for each in restored.by_opening.values())
    assert restored.open_bytes == made.tables.open_bytes - sum(each.raw_bytes for each in made.sessions())


def held(max_open_bytes: int) -> int:
    """Return how many sessions of ten lines are open when the first has to close for want of memory."""
    made = Gathering(max_open_bytes)
    number = 0
    while not any(made.feed(value(number, 0, TEXTS[turn % len(TEXTS)])) for turn in range(10)):
        number += 1
    return number


def test_without_their_raw_texts_almost_twice_as_many_sessions_stay_open(monkeypatch: pytest.MonkeyPatch) -> None:
    spared = held(1_000_000)
    monkeypatch.setattr(module, "_SPARE_FROM", 2.0)
    assert spared > 1.7 * held(1_000_000)


def test_the_quietest_lose_their_raw_texts_and_nothing_else() -> None:
    made, roomy = Gathering(1_000_000), Gathering()
    values = [value(number, turn, TEXTS[turn]) for turn in range(2) for number in range(450)]
    assert made.feed(*values) == roomy.feed(*values) == []
    bare = [not any(line.raw for line in session.lines) for session in made.sessions()]
    assert 0 < sum(bare) < len(bare)
    assert bare == sorted(bare, reverse=True)  # the quietest stand first
    assert 600_000 < made.tables.open_bytes <= 820_000
    assert [each.texts for each in made.sessions()] == [each.texts for each in roomy.sessions()]
    assert made.tables.open_bytes == sum(each.bytes for each in made.sessions())
    assert all(each.raw_bytes == sum(raw_bytes(line.raw) for line in each.lines) for each in made.sessions())


def test_a_traceback_whose_event_lost_its_raw_text_is_still_read_and_can_be_found_again() -> None:
    made = Gathering()
    made.feed(value(1, 0, "The disk has melted"))
    (session,) = made.sessions()
    made.sessionizer.max_open_bytes = session.bytes + 10
    made.feed(*(each.encode() for each in TRACEBACK), b"NoDisk: /dev/vda")
    made.sessionizer.max_open_bytes = 2 * session.bytes
    (line,) = session.lines
    assert "NoDisk" in line.tail
    assert line.rest == [(offset, 0) for offset in range(1, 5)]


def test_where_there_is_nothing_left_to_drop_it_is_not_looked_for_with_every_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = Gathering(1_000_000)
    looks: list[None] = []

    def counted(*queues: Iterable[Session], key: Callable[[Session], float]) -> Iterator[Session]:
        looks.append(None)
        return heapq.merge(*queues, key=key)

    monkeypatch.setattr(module, "merge", counted)
    for turn in range(5):
        made.feed(*(value(number, turn, TEXTS[turn]) for number in range(600)))
    assert 0 < len(looks) < 100
