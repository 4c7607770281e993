"""What `SessionChanges` gives, applied in order, is what the sessionizer had: sessions go on as before."""

from __future__ import annotations

import functools
import lzma
import math
import random
from dataclasses import replace
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loggpt_stream.lines.decode import decode
from loggpt_stream.lines.masks import Masks
from loggpt_stream.lines.record import Event, Record, UndecodableError
from loggpt_stream.lines.rules import SessionRules
from loggpt_stream.lines.session_changes import Pending, SessionChanges, SessionRestore
from loggpt_stream.lines.sessionizer import Sessionizer
from loggpt_stream.lines.state_formats import from_format_1, to_format_1
from loggpt_stream.lines.tables import Tables
from tests.lines.test_sessionizer import ARRIVALS, PROPERTY_RULES, Arrival, line, timeline

if TYPE_CHECKING:
    from loggpt_stream.lines.session import Session


class Writer:
    """A sessionizer with its changes, and a reader that applies all of them (through JSON, as stored)."""

    def __init__(self, rules: SessionRules, **limits: Any) -> None:
        self.rules = rules
        self.limits = limits
        self.pending: Pending = {}
        self.judged: list[Session] = []
        self.stored: list[bytes] = []
        self._begin(Tables())

    def _begin(self, tables: Tables) -> None:
        self.changes = SessionChanges(tables)
        self.sessionizer = Sessionizer(self.rules, Masks(), changes=self.changes, tables=tables, **self.limits)

    def add(self, event: Event, offset: int, arrival_s: float = math.inf) -> list[Session]:
        return self.note(self.sessionizer.add(event, offset, arrival_s))

    def note(self, closed: list[Session]) -> list[Session]:
        for session in closed:
            self.pending[session.identity] = session
        return closed

    def judge(self, session: Session) -> None:
        del self.pending[session.identity]
        self.judged.append(session)

    def commit(self, *, snapshot: bool = False) -> None:
        if snapshot:
            self.stored = [orjson.dumps(self.changes.everything(self.pending.values()))]
        else:
            self.stored.append(orjson.dumps(self.changes.take(self.judged)))
        self.judged = []

    def read(self) -> tuple[Tables, Pending]:
        restored = SessionRestore(self.rules.tombstone_s)
        for each in self.stored:
            change = orjson.loads(each)
            restored.apply(change)
            # Whatever was written, a member of version 0.1.0 could have written it, and would have read it.
            assert from_format_1(orjson.loads(orjson.dumps(to_format_1(change)))) == change
        return restored.tables, restored.pending

    def crash(self) -> None:
        """Go on with what was stored and nothing else."""
        tables, self.pending = self.read()
        self._begin(tables)


def all_of(tables: Tables, pending: Pending) -> dict[str, Any]:
    """Return everything there is, in a form that can be compared. It is a look only: what is saved stays as it is."""
    saved = [(each, each.saved) for each in (*tables.by_opening.values(), *pending.values())]
    unsaved = [(each, each.unsaved) for each in (*tables.by_opening.values(), *tables.parents)]
    found = SessionChanges(tables).everything(pending.values())
    for session, was in saved:
        session.saved = was
    for each, was_unsaved in unsaved:
        each.unsaved = was_unsaved
    # A tombstone or an old parent that no line can meet any more may go sooner or later.
    for name in ("tombstones", "parents"):
        found.pop(name, None)
    return found | {"opening": list(tables.by_opening), "lines": tables.open_lines}


STEPS = st.lists(st.sampled_from(["go on", "judge", "commit", "snapshot", "crash"]), min_size=60, max_size=60)


@given(arrivals=ARRIVALS, rules=PROPERTY_RULES, steps=STEPS, max_lines=st.sampled_from([2, 999]))
@settings(max_examples=300, deadline=None)
def test_after_a_restart_the_same_sessions_close_as_without_one(
    arrivals: list[Arrival], rules: SessionRules, steps: list[str], max_lines: int
) -> None:
    whole = Sessionizer(rules, Masks(), max_open_lines=max_lines)
    writer = Writer(rules, max_open_lines=max_lines)
    expected: list[Session] = []
    found: list[Session] = []
    for offset, ((event, arrival_s), step) in enumerate(zip(timeline(arrivals), steps, strict=False)):
        expected += whole.add(event, offset, arrival_s)
        found += writer.add(event, offset, arrival_s)
        if step == "judge" and writer.pending:
            writer.judge(next(iter(writer.pending.values())))
        elif step in ("commit", "snapshot"):
            writer.commit(snapshot=step == "snapshot")
            assert all_of(*writer.read()) == all_of(writer.sessionizer.tables, writer.pending)
        elif step == "crash":
            writer.commit()
            writer.crash()
    expected += whole.flush()
    found += writer.note(writer.sessionizer.flush())
    assert [shown(session) for session in found] == [shown(session) for session in expected]


def shown(session: Session) -> tuple[object, ...]:
    head = (session.kind, session.key, session.identity, session.part, session.late, session.opened_s)
    end = (session.last_seen_s, session.closed_s, session.close_reason, session.project_id, session.group)
    lines = [(each.time_s, each.offset, each.index, each.text) for each in session.lines]
    return (*head, *end, tuple(session.hosts), *lines)


@functools.cache
def recorded() -> list[tuple[int, Event]]:
    raw = lzma.decompress((files("loggpt_stream") / "data/nova34/nova34.log.xz").read_bytes())
    found: list[tuple[int, Event]] = []
    for offset, value in enumerate(raw.splitlines()[:25_000]):
        try:
            found += [(offset, event) for event in decode(Record(value, "t", 0, offset, 0.0))]
        except UndecodableError:
            continue
    return found


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_in_a_recording_restarts_change_no_session_and_no_line_with_its_traceback(seed: int) -> None:
    chance = random.Random(seed)
    rules = SessionRules(idle_gap_s=60.0)
    whole, writer = Sessionizer(rules, Masks()), Writer(rules)
    expected: list[Session] = []
    found: list[Session] = []
    restarts = 0
    for offset, event in recorded():
        expected += whole.add(event, offset, math.inf)
        found += writer.add(event, offset)
        if writer.pending and chance.random() < 0.1:
            writer.judge(next(iter(writer.pending.values())))
        if chance.random() < 0.004:
            writer.commit(snapshot=chance.random() < 0.1)
            if chance.random() < 0.3:
                restarts += 1
                writer.crash()
    assert restarts > 10
    assert [shown(session) for session in found] == [shown(session) for session in expected]
    assert len(found) > 100
    assert sum(bool(each.rest) for session in expected for each in session.lines) > 20
    rest = [[(each.offset, each.rest) for each in session.lines if each.rest] for session in expected]
    assert [[(each.offset, each.rest) for each in session.lines if each.rest] for session in found] == rest


def test_a_key_that_closes_and_opens_again_between_two_commits_is_both_sessions() -> None:
    writer = Writer(SessionRules(idle_gap_s=10.0))
    writer.add(line(1000.0), 0)
    writer.commit()
    writer.add(line(1001.0), 1)
    writer.add(line(1100.0), 2)
    writer.add(line(1101.0), 3)
    writer.commit()
    tables, pending = writer.read()
    assert [(each.identity, len(each.lines)) for each in pending.values()] == [((0, 0), 2)]
    assert [(each.identity, len(each.lines)) for each in tables.by_opening.values()] == [((2, 0), 2)]


def test_a_session_that_only_got_a_continuation_keeps_its_place_among_the_quiet() -> None:
    writer = Writer(SessionRules(idle_gap_s=20.0))
    writer.add(line(1000.0, "a"), 0)
    writer.add(line(1010.0, "b", pid="8"), 1)
    writer.commit()
    writer.add(line(1000.0, None, "Traceback (most recent call last):", fragment=True), 2)
    writer.commit()
    assert [each.key for each in writer.sessionizer.tables.active.values()] == ["a", "b"]
    tables, _ = writer.read()
    assert [each.key for each in tables.active.values()] == ["a", "b"]
    assert next(iter(tables.active.values())).lines[0].rest == [(2, 0)]


def test_an_early_alert_is_remembered_with_its_session() -> None:
    writer = Writer(SessionRules())
    writer.add(line(1000.0), 0)
    writer.commit()
    (session,) = writer.sessionizer.tables.by_opening.values()
    session.announced_s = 1001.5
    writer.changes.announced(session)
    writer.commit()
    (restored,) = writer.read()[0].by_opening.values()
    assert restored.announced_s == 1001.5


def test_of_a_session_that_came_and_went_between_two_commits_only_its_end_is_stored() -> None:
    writer = Writer(SessionRules(max_lines=1))
    (session,) = writer.add(line(1000.0, message="unforgettable"), 0)
    writer.judge(session)
    writer.commit()
    assert b"unforgettable" not in writer.stored[0]
    tables, pending = writer.read()
    assert pending == {}
    assert list(tables.tombstones) == [("instance", "vm")]


def test_a_change_that_does_not_fit_is_refused() -> None:
    writer = Writer(SessionRules())
    writer.add(line(1000.0), 0)
    writer.commit()
    writer.add(line(1001.0), 1)
    writer.commit()
    del writer.stored[0]
    with pytest.raises(ValueError, match="not known"):
        writer.read()


def test_lines_at_the_same_millisecond_and_between_two_keep_their_time() -> None:
    writer = Writer(SessionRules())
    times_s = [1795442888.123, 1795442888.123457, 1795442889.5]
    for offset, time_s in enumerate(times_s):
        writer.add(replace(line(time_s), time_s=time_s), offset)
    writer.commit()
    (session,) = writer.read()[0].by_opening.values()
    assert session.times_s == times_s
