"""The recordings that ship with the package, cut into sessions: what there is to replay.

Which records belong to which instance is asked of the daemon's own decoder and Sessionizer, so that what a simulated
session consists of and what the daemon makes of it cannot drift apart.
"""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final

from loggpt_stream.history.files import Reading, read_events
from loggpt_stream.lines.masks import Masks
from loggpt_stream.lines.names import Fate
from loggpt_stream.lines.rules import SessionRules
from loggpt_stream.lines.sessionizer import Sessionizer
from loggpt_stream.simulator.splits import SPLITS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from loggpt_stream.lines.record import Event

DATA: Final = Path(__file__).parent.parent / "data" / "nova34"

# A session here is all that was ever logged for an instance: nothing but its key cuts it.
_UNCUT: Final = SessionRules(idle_gap_s=math.inf, max_age_s=math.inf, max_lines=10**9, terminal=())


@dataclass(frozen=True, slots=True)
class Recording:
    """A recorded log and the truth about its instances."""

    log: Path
    labels: Path
    splits: tuple[str, ...]


FIRST: Final = Recording(DATA / "nova34.log.xz", DATA / "nova34.labels.csv", ("train", "val", "test"))
SECOND: Final = Recording(DATA / "nova34-day2.log.xz", DATA / "nova34-day2.labels.csv", ("day2",))


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    """One event as it was logged: its header line, then whatever continued it (rest of a message, traceback).

    offset_ms: since the first event of its session.
    """

    offset_ms: int
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RecordedSession:
    """All events of one instance, with the truth about it; or a piece of background (`instance` is "").

    started_ms and so on: since the first event; None where the truth has no such time.
    """

    instance: str
    failed: bool
    fault: str
    events: tuple[RecordedEvent, ...]
    started_ms: int | None = None
    ended_ms: int | None = None
    failed_ms: int | None = None
    injected_ms: int | None = None

    @property
    def records(self) -> int:
        """Return how many text lines it was logged in."""
        return sum(len(event.lines) for event in self.events)

    @property
    def duration_ms(self) -> int:
        """Return the time from its first event to its last."""
        return self.events[-1].offset_ms


@dataclass(frozen=True, slots=True)
class Library:
    """What can be replayed: instance sessions, and the lines between them that belong to no instance."""

    sessions: tuple[RecordedSession, ...]
    background: tuple[RecordedSession, ...]


def load_library(splits: Collection[str] = SPLITS) -> Library:
    """Read the recordings that hold `splits` and return the sessions of these splits, and their background."""
    sessions: list[RecordedSession] = []
    background: list[RecordedSession] = []
    for recording in (FIRST, SECOND):
        if set(recording.splits) & set(splits):
            own, rest = _cut(recording, splits)
            sessions += own
            background += rest
    return Library(tuple(sessions), tuple(background))


@dataclass(slots=True)
class _Logged:
    """An event while it is not yet known whose it is."""

    event: Event
    lines: list[str]


def _cut(recording: Recording, splits: Collection[str]) -> tuple[list[RecordedSession], list[RecordedSession]]:
    """Return the labelled sessions of `splits` in a recording, and its background in pieces."""
    sessionizer = Sessionizer(_UNCUT, Masks(()))
    logged: dict[int, _Logged] = {}
    newest: dict[tuple[str, str], _Logged] = {}
    for event, record in read_events([str(recording.log)], Reading()):
        continued_before = sessionizer.fates[Fate.CONTINUATION] + sessionizer.fates[Fate.UNKEYED]
        text = (record.value or b"").decode()
        sessionizer.add(event, record.offset, arrival_s=math.inf)
        continues = sessionizer.fates[Fate.CONTINUATION] + sessionizer.fates[Fate.UNKEYED] > continued_before
        parent = newest.get((event.pid, event.logger))
        if event.fragment and continues and parent is not None:
            parent.lines.append(text)
            continue
        logged[record.offset] = newest[event.pid, event.logger] = newest["", ""] = _Logged(event, [text])
    instance_of = _by_instance(sessionizer, logged)
    events_of: dict[str, list[_Logged]] = defaultdict(list)
    pieces: dict[str, list[_Logged]] = defaultdict(list)
    for offset, each in logged.items():
        if offset in instance_of:
            events_of[instance_of[offset]].append(each)
        else:
            pieces[each.event.global_request_id or each.event.request_id or f"line {offset}"].append(each)
    with recording.labels.open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["split"] in splits]
    sessions = [_session(row, events_of[row["instance_uuid"]]) for row in rows if row["instance_uuid"] in events_of]
    return sessions, [_piece(events) for events in pieces.values()]


def _by_instance(sessionizer: Sessionizer, logged: dict[int, _Logged]) -> dict[int, str]:
    """Return the instance of each event (by offset) that has one.

    An event without instance belongs to the only one that its request ever names, also where it came before the name:
    the API logs a creation before there is an instance to speak of.
    """
    instance_of = {
        line.offset: session.key
        for session in sessionizer.flush()
        if session.kind == "instance"
        for line in session.lines
    }
    instances_of_request: dict[str, set[str]] = defaultdict(set)
    for offset, instance in instance_of.items():
        for request in _requests(logged[offset].event):
            instances_of_request[request].add(instance)
    for offset, each in logged.items():
        for request in _requests(each.event):
            if offset not in instance_of and len(instances_of_request.get(request, ())) == 1:
                (instance_of[offset],) = instances_of_request[request]
    return instance_of


def _requests(event: Event) -> list[str]:
    return [request for request in (event.request_id, event.global_request_id) if request]


def _session(row: dict[str, str], events: list[_Logged]) -> RecordedSession:
    begin_s = events[0].event.time_s

    def since_begin_ms(column: str) -> int | None:
        return round((float(row[column]) - begin_s) * 1000) if row[column] else None

    return RecordedSession(
        instance=row["instance_uuid"],
        failed=row["failed"] == "1",
        fault=row["fault"],
        events=_recorded(events),
        started_ms=since_begin_ms("started_at"),
        ended_ms=since_begin_ms("ended_at"),
        failed_ms=since_begin_ms("failed_at"),
        injected_ms=since_begin_ms("injected_at"),
    )


def _piece(events: list[_Logged]) -> RecordedSession:
    return RecordedSession(instance="", failed=False, fault="", events=_recorded(events))


def _recorded(events: Iterable[_Logged]) -> tuple[RecordedEvent, ...]:
    ordered = list(events)
    begin_s = ordered[0].event.time_s
    recorded = [RecordedEvent(round((each.event.time_s - begin_s) * 1000), tuple(each.lines)) for each in ordered]
    assert all(a.offset_ms <= b.offset_ms for a, b in pairwise(recorded))  # noqa: S101 - files are read in time order
    return tuple(recorded)
