"""Lines of one partition → sessions. Pure: no I/O, no clock; record time moves it, and whoever owns it may move it on.

The watermark is the newest record time seen (future dates clamped). Every line goes to exactly one session, in arrival
order, whatever its own time says. What becomes of the odd ones:

- a line dated in the future counts as arriving now plus `max_future_s`; its own time stays on the line;
- a late or reordered line joins its session if that is open; if it is older than the close of its session, or follows a
  terminal close within `tombstone_s`, it starts a session marked `late`, which is never judged;
- a line after a close by age or length starts the session's next part;
- a continuation joins the event it continues, as long as that event's session is open; else it is counted
  (`late_continuation`, `orphan_continuation`);
- a line without any key is counted and dropped, or windowed per host and service, as the rules say.
"""

from __future__ import annotations

from collections import Counter
from heapq import merge
from typing import TYPE_CHECKING, Final

from loggpt_stream.lines.continuation import stands_alone
from loggpt_stream.lines.keys import SEVERAL, key_of, link_of, linked_with, request_of, window_of
from loggpt_stream.lines.names import CloseReason, Fate, SessionKind
from loggpt_stream.lines.session import (
    LINE_BYTES,
    MAX_RAW_CHARS,
    MAX_REST,
    REST_BYTES,
    Line,
    Session,
    extended,
    raw_bytes,
)
from loggpt_stream.lines.tables import NEVER, Tables, Tombstone

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loggpt_stream.lines.masks import Masks
    from loggpt_stream.lines.record import Event
    from loggpt_stream.lines.rules import SessionRules
    from loggpt_stream.lines.session_changes import SessionChanges
    from loggpt_stream.lines.tables import Key

# Raw texts of quiet sessions are dropped from this share of the memory on, down to that; not again before it has grown.
_SPARE_FROM: Final = 0.8
_SPARE_TO: Final = 0.7
_SPARE_STEP: Final = 0.02

# Bound here: an enum's member costs a look-up for every line.
_INSTANCE: Final = SessionKind.INSTANCE
_EXPLICIT: Final = SessionKind.EXPLICIT
_LINE: Final = Fate.LINE
_LATE_LINE: Final = Fate.LATE_LINE
_CONTINUATION: Final = Fate.CONTINUATION
_UNKEYED: Final = Fate.UNKEYED


class Sessionizer:
    """The open sessions of one partition. Memory is bounded: past a limit the longest quiet session closes first."""

    def __init__(
        self,
        rules: SessionRules,
        masks: Masks,
        *,
        max_open_sessions: int = 100_000,
        max_open_lines: int = 2_000_000,
        max_open_bytes: int = 2**40,
        changes: SessionChanges | None = None,
        tables: Tables | None = None,
    ) -> None:
        """Start with no open session, or with what `tables` hold. The limits hold for this partition alone.

        changes: notes every change, for whoever stores them.
        """
        self.rules = rules
        self.max_open_sessions = max_open_sessions
        self.max_open_lines = max_open_lines
        self.max_open_bytes = max_open_bytes
        self.fates: Counter[Fate] = Counter()
        self.tables = tables or Tables()
        # Offset of the newest record of which an open session got something.
        self.newest_line = -1
        self._masks = masks
        self._changes = changes
        # Memory of the open sessions after raw texts were dropped, while that is recent.
        self._spared_bytes = 0.0
        self._grace_s = min(rules.grace_s, rules.idle_gap_s)
        # Before this time no session is due: most lines need not look at the queues.
        self._none_due_before_s = NEVER

    @property
    def watermark_s(self) -> float:
        """Return the newest record time seen (epoch seconds)."""
        return self.tables.watermark_s

    @property
    def open_sessions(self) -> int:
        """Return how many sessions are open."""
        return len(self.tables.by_opening)

    @property
    def open_lines(self) -> int:
        """Return how many lines the open sessions have."""
        return self.tables.open_lines

    def add(self, event: Event, offset: int, arrival_s: float) -> list[Session]:
        """Take the next event of the partition and return the sessions that closed.

        `arrival_s` is when the record came in (epoch seconds): no line is taken to be from later than that plus
        `max_future_s`.
        """
        tables = self.tables
        tables.index = tables.index + 1 if offset == tables.offset else 0
        tables.offset = offset
        if event.fragment and self._continue(event):
            # It happened when its event did. Without a header it has only its record's time, which is days later where
            # a topic is read again.
            return []
        # To the microsecond, which is what times are stored by.
        own_time_s = time_s = round(event.time_s, 6)
        if time_s > arrival_s + self.rules.max_future_s:
            time_s = round(arrival_s + self.rules.max_future_s, 6)
        key = self._key(event, max(tables.watermark_s, time_s))
        # A dropped line without header may have only the time at which it was read, hours after the lines around it.
        timed = key is not None or event.logger
        closed = self.advance(time_s) if timed else []
        if key is None:
            self.fates[_UNKEYED] += 1
            tables.parents.remember(event, None)
            return closed
        session = tables.by_opening.get(key) or self._open(key, event, offset)
        self._append(session, event, own_time_s)
        self._touch(session, event)
        if tables.open_bytes > _SPARE_FROM * self.max_open_bytes:
            self._spare_memory()
        full: list[Session] = []
        if len(session.lines) >= self.rules.max_lines:
            full.append(self._close(session, CloseReason.MAX_LINES, self.watermark_s))
        while (
            len(tables.by_opening) > self.max_open_sessions
            or tables.open_lines > self.max_open_lines
            or (tables.open_bytes > self.max_open_bytes and tables.by_opening)
        ):
            full.append(self._close(self._quietest(), CloseReason.MEMORY, self.watermark_s))
        return closed + self._closed(full) if full else closed

    def advance(self, time_s: float) -> list[Session]:
        """Move the watermark to `time_s` (never back) and return the sessions that this closes."""
        tables = self.tables
        tables.watermark_s = max(tables.watermark_s, time_s)
        return self.close_due(tables.watermark_s)

    def close_due(self, now_s: float) -> list[Session]:
        """Return the sessions that are due by `now_s`, which need not be the time of any record.

        The watermark stays where the records left it, so that the sessions to come are the same whether or not somebody
        looked at a clock in between.
        """
        due: list[Session] = []
        if now_s < self._none_due_before_s:
            return due
        tables = self.tables
        # Whatever comes from now on is due this much later.
        first_due_s = tables.watermark_s + min(self._grace_s, self.rules.max_age_s)
        for queue, gap_s in ((tables.ending, self._grace_s), (tables.active, self.rules.idle_gap_s)):
            while queue:
                session = next(iter(queue.values()))
                if now_s < session.last_seen_s + gap_s:
                    first_due_s = min(first_due_s, session.last_seen_s + gap_s)
                    break
                due.append(self._close_due(session))
        while tables.by_opening:
            session = next(iter(tables.by_opening.values()))
            if now_s < session.opened_s + self.rules.max_age_s:
                first_due_s = min(first_due_s, session.opened_s + self.rules.max_age_s)
                break
            due.append(self._close_due(session))
        self._none_due_before_s = first_due_s
        due.sort(key=lambda session: (session.closed_s, session.first_offset))
        return self._closed(due)

    def seen_since(self, time_s: float) -> Iterator[Session]:
        """Yield the open sessions whose newest line came while the watermark was at `time_s` or later, newest first.

        Those that end come last. It looks at no session but these.
        """
        for queue in (self.tables.active, self.tables.ending):
            for session in reversed(queue.values()):
                if session.last_seen_s < time_s:
                    break
                yield session

    def flush(self) -> list[Session]:
        """Close every open session: the input has ended."""
        sessions = list(self.tables.by_opening.values())
        return self._closed([self._close(session, CloseReason.END_OF_INPUT, self.watermark_s) for session in sessions])

    def _continue(self, fragment: Event) -> bool:
        """Add a fragment to the event that it continues; return False where it must be a line of its own."""
        parent = self.tables.parents.find(fragment)
        if parent is None:
            if stands_alone(fragment):
                return False
            self.fates[Fate.ORPHAN_CONTINUATION] += 1
            return True
        session = parent.session() if parent.session is not None else None
        if parent.session is None:
            self.fates[_UNKEYED] += 1
        elif session is None or session.close_reason:
            self.fates[Fate.LATE_CONTINUATION] += 1
        else:
            self.fates[_CONTINUATION] += 1
            line = session.lines[parent.line]
            if parent.reader.read(fragment.message):
                line.tail = self._masks.mask(parent.reader.exception)
            self._extend(session, line, fragment.message)
            self.tables.parents.touch(parent)
            if self._changes:
                self._changes.rewrote(session, parent.line)
        return True

    def _extend(self, session: Session, line: Line, text: str) -> None:
        """Give a line its continuation, as far as there is room."""
        self.newest_line = self.tables.offset
        line.rest = line.rest or []
        if len(line.rest) < MAX_REST:
            line.rest.append((self.tables.offset, self.tables.index))
            self._grow(session, REST_BYTES)
        before = raw_bytes(line.raw)
        if line.raw:
            line.extend_raw(text)
        self._grow_raw(session, raw_bytes(line.raw) - before)

    def _grow(self, session: Session, size: int) -> None:
        session.bytes += size
        self.tables.open_bytes += size

    def _grow_raw(self, session: Session, size: int) -> None:
        session.raw_bytes += size
        self._grow(session, size)

    def _key(self, event: Event, now_s: float) -> Key | None:
        """Return the key of the session that this line belongs to, by what is open at `now_s`."""
        order = self.rules.key_order
        linking, request = link_of(event, order), request_of(event)
        if linking is not None:
            self._link(*linking)
        linked = self.tables.instance_of_request.get(request) if request and not event.about_several else None
        # Only while that instance's session is open: a request must not bring a closed session back, not even one
        # that this line itself will close by moving the clock.
        session = self.tables.by_opening.get((_INSTANCE, linked)) if linked else None
        is_open = session is not None and now_s < self._due_s(session)
        key = key_of(event, order, linked if is_open else None)
        return window_of(event) if key is None and self.rules.unkeyed == "window" else key

    def _link(self, request: str, instance: str) -> None:
        """Remember which instance a request is about; none, once it has named a second one."""
        known = self.tables.instance_of_request.get(request)
        if known in (instance, SEVERAL):
            return
        self.tables.link(request, linked_with(known, instance))
        if self._changes:
            self._changes.linked(request)

    def _open(self, key: Key, event: Event, offset: int) -> Session:
        kind, name = key
        session = Session(name, kind, self.watermark_s, self.watermark_s, offset, self.tables.index)
        before = self.tables.tombstones.get(key)
        if before is not None and self.watermark_s - before.closed_s < self.rules.tombstone_s:
            if before.continues:
                session.part = before.part + 1
                session.late = before.late
            elif before.close_reason == CloseReason.TERMINAL:
                session.late = True
            else:
                session.late = event.time_s < before.closed_s
        self.tables.open(session)
        return session

    def _append(self, session: Session, event: Event, time_s: float) -> None:
        tables = self.tables
        line = Line(time_s, tables.offset, masked_head(event, self._masks), "", raw_text(event), tables.index)
        session.lines.append(line)
        self.newest_line = tables.offset
        exception = tables.parents.remember(event, session).reader.exception
        if exception:
            line.tail = self._masks.mask(exception)
        size = raw_bytes(line.raw)
        session.raw_bytes += size
        session.bytes += LINE_BYTES + size
        tables.open_lines += 1
        tables.open_bytes += LINE_BYTES + size
        self.fates[_LATE_LINE if session.late else _LINE] += 1
        if event.host and event.host not in session.hosts:
            session.hosts.append(event.host)
        session.project_id = session.project_id or event.project_id
        session.traceparent = session.traceparent or event.traceparent
        if session.kind != _EXPLICIT:
            session.group = session.group or event.session_id

    def _touch(self, session: Session, event: Event) -> None:
        session.last_seen_s = self.tables.watermark_s
        session.unsaved = True
        if session.kind == _INSTANCE:
            decisive = self.rules.revival if session.ending else self.rules.terminal
            for piece in decisive:
                if piece in event.message:
                    session.ending = not session.ending
                    self.tables.place(session)
                    return
        (self.tables.ending if session.ending else self.tables.active).move_to_end((session.kind, session.key))

    def _spare_memory(self) -> None:
        """Drop the raw texts of the quietest sessions once memory runs short: the topic has them, see `Line.raw`."""
        tables, most = self.tables, self.max_open_bytes
        if tables.open_bytes < self._spared_bytes + _SPARE_STEP * most:
            # What it came to last time; less by now where sessions closed.
            self._spared_bytes = min(self._spared_bytes, float(tables.open_bytes))
            return
        for session in merge(tables.active.values(), tables.ending.values(), key=lambda each: each.last_seen_s):
            if tables.open_bytes <= _SPARE_TO * most:
                break
            if session.raw_bytes:
                for line in session.lines:
                    line.raw = ""
                self._grow_raw(session, -session.raw_bytes)
        self._spared_bytes = float(tables.open_bytes)

    def _quietest(self) -> Session:
        queues = (self.tables.ending, self.tables.active)
        return min((next(iter(queue.values())) for queue in queues if queue), key=lambda front: front.last_seen_s)

    def _quiet_s(self, session: Session) -> float:
        return session.last_seen_s + (self._grace_s if session.ending else self.rules.idle_gap_s)

    def _due_s(self, session: Session) -> float:
        return min(self._quiet_s(session), session.opened_s + self.rules.max_age_s)

    def _close_due(self, session: Session) -> Session:
        """Close for what was due first, so that it makes no difference in how many steps the watermark came here."""
        due_s = self._due_s(session)
        if due_s < self._quiet_s(session):
            return self._close(session, CloseReason.MAX_AGE, due_s)
        return self._close(session, CloseReason.TERMINAL if session.ending else CloseReason.IDLE, due_s)

    def _close(self, session: Session, reason: CloseReason, time_s: float) -> Session:
        self.tables.close(session)
        session.close_reason = reason
        session.closed_s = round(time_s, 6)
        tombstone = Tombstone(reason, session.closed_s, session.part, session.late)
        self.tables.bury((session.kind, session.key), tombstone, self.rules.tombstone_s)
        return session

    def _closed(self, sessions: list[Session]) -> list[Session]:
        """Return sessions that closed, in the order in which they count as closed."""
        if self._changes:
            self._changes.closed(sessions)
        return sessions


def raw_text(event: Event) -> str:
    """Return an event as an operator would see it, with the continuation that came in its record."""
    raw = event.raw[:MAX_RAW_CHARS]
    for text in event.continuation:
        raw = extended(raw, text)
    return raw


def masked_head(event: Event, masks: Masks) -> str:
    """Return what the model sees of an event, but for its traceback."""
    return masks.mask(f"{event.level} {event.logger} {event.message}" if event.logger else event.message)
