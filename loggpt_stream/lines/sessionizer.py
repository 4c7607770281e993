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

from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Final, NamedTuple

from loggpt_stream.lines.continuation import Parents, exception_line
from loggpt_stream.lines.session import MAX_RAW_CHARS, Line, Session

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loggpt_stream.lines.masks import Masks
    from loggpt_stream.lines.record import Event
    from loggpt_stream.lines.rules import SessionRules

_MAX_LINKS: Final = 32_768
_MAX_TOMBSTONES: Final = 65_536
_NEVER: Final = float("-inf")
_SEVERAL: Final = ""

_KIND_OF_SOURCE: Final = {
    "explicit": "explicit",
    "instance": "instance",
    "instance_in_text": "instance",
    "request_instance": "instance",
    "global_request": "request",
    "request": "request",
}

_Key = tuple[str, str]


class _Tombstone(NamedTuple):
    """What is remembered of a closed session, for `tombstone_s`: enough to know late lines and next parts by."""

    close_reason: str
    closed_s: float
    part: int
    late: bool


class Sessionizer:
    """The open sessions of one partition. Memory is bounded: past a limit the longest quiet session closes first."""

    def __init__(
        self, rules: SessionRules, masks: Masks, *, max_open_sessions: int = 100_000, max_open_lines: int = 2_000_000
    ) -> None:
        """Start with no open session. The limits hold for this partition alone."""
        self.rules = rules
        self.max_open_sessions = max_open_sessions
        self.max_open_lines = max_open_lines
        self.watermark_s = _NEVER
        self.open_lines = 0
        self.fates: Counter[str] = Counter()
        self._masks = masks
        self._offset = -1
        self._index = 0
        self._grace_s = min(rules.grace_s, rules.idle_gap_s)
        # A session is in `_by_opening` and in one of the two others. All three are in order of their watermarks, so
        # that whatever is due stands at the front.
        self._by_opening: OrderedDict[_Key, Session] = OrderedDict()
        self._active: OrderedDict[_Key, Session] = OrderedDict()
        self._ending: OrderedDict[_Key, Session] = OrderedDict()
        self._tombstones: OrderedDict[_Key, _Tombstone] = OrderedDict()
        self._instance_of_request: OrderedDict[str, str] = OrderedDict()
        self._parents = Parents()

    @property
    def open_sessions(self) -> int:
        """Return how many sessions are open."""
        return len(self._by_opening)

    @property
    def oldest_open_offset(self) -> int | None:
        """Return the first offset of the session that opened first, or None where none is open."""
        return next(iter(self._by_opening.values())).first_offset if self._by_opening else None

    def add(self, event: Event, offset: int, arrival_s: float) -> list[Session]:
        """Take the next event of the partition and return the sessions that closed.

        `arrival_s` is when the record came in (epoch seconds): no line is taken to be from later than that plus
        `max_future_s`.
        """
        self._index = self._index + 1 if offset == self._offset else 0
        self._offset = offset
        if event.fragment and self._continue(event):
            # It happened when its event happened. A line without header has no other time than its record's, which in
            # a topic that is read again may be days later.
            return []
        time_s = min(event.time_s, arrival_s + self.rules.max_future_s)
        key = self._key(event, max(self.watermark_s, time_s))
        # A dropped line without header may well have no time but that of its reading, hours after the lines around it.
        timed = key is not None or event.logger
        closed = self.advance(time_s) if timed else []
        if key is None:
            self.fates["unkeyed"] += 1
            self._parents.remember(event, None, None)
            return closed
        session = self._by_opening.get(key) or self._open(key, event, offset)
        self._append(session, event, offset)
        self._touch(key, session, event)
        if len(session.lines) >= self.rules.max_lines:
            closed.append(self._close(key, "max_lines", self.watermark_s))
        while len(self._by_opening) > self.max_open_sessions or self.open_lines > self.max_open_lines:
            closed.append(self._close(self._quietest(), "memory", self.watermark_s))
        return closed

    def advance(self, time_s: float) -> list[Session]:
        """Move the watermark to `time_s` (never back) and return the sessions that this closes."""
        self.watermark_s = max(self.watermark_s, time_s)
        return self.close_due(self.watermark_s)

    def close_due(self, now_s: float) -> list[Session]:
        """Return the sessions that are due by `now_s`, which need not be the time of any record.

        The watermark stays where the records left it, so that the sessions to come are the same whether or not somebody
        looked at a clock in between.
        """
        due: list[Session] = []
        for queue, gap_s in ((self._ending, self._grace_s), (self._active, self.rules.idle_gap_s)):
            while queue:
                key, session = next(iter(queue.items()))
                if now_s < session.last_seen_s + gap_s:
                    break
                due.append(self._close_due(key, session))
        while self._by_opening:
            key, session = next(iter(self._by_opening.items()))
            if now_s < session.opened_s + self.rules.max_age_s:
                break
            due.append(self._close_due(key, session))
        due.sort(key=lambda session: (session.closed_s, session.first_offset))
        return due

    def seen_since(self, time_s: float) -> Iterator[Session]:
        """Yield the open sessions whose newest line came while the watermark was at `time_s` or later, newest first.

        Those that end come last. It looks at no session but these.
        """
        for queue in (self._active, self._ending):
            for session in reversed(queue.values()):
                if session.last_seen_s < time_s:
                    break
                yield session

    def flush(self) -> list[Session]:
        """Close every open session: the input has ended."""
        return [self._close(key, "end_of_input", self.watermark_s) for key in list(self._by_opening)]

    def _continue(self, fragment: Event) -> bool:
        """Give a fragment to the event it continues. False where it must stand as a line of its own."""
        parent = self._parents.find(fragment)
        if parent is None:
            # Frames and blank lines without the event they belong to say nothing; an exception line alone does.
            if fragment.message[:1].strip() or (fragment.message.strip() and not fragment.logger):
                return False
            self.fates["orphan_continuation"] += 1
            return True
        session = parent.session() if parent.session is not None else None
        if parent.session is None or parent.line is None:
            self.fates["unkeyed"] += 1
        elif session is None or session.close_reason:
            self.fates["late_continuation"] += 1
        else:
            self.fates["continuation"] += 1
            parent.line.extend_raw(fragment.message)
            if parent.reader.read(fragment.message):
                parent.line.tail = self._masks.mask(parent.reader.exception)
        return True

    def _key(self, event: Event, now_s: float) -> _Key | None:
        """Return whose line this is, by what is open at `now_s`."""
        order = self.rules.key_order
        request = event.request_id or event.global_request_id
        names = {
            "explicit": event.session_id,
            "instance": event.instance_id,
            "instance_in_text": event.instance_in_text,
            "request_instance": None,
            "global_request": event.global_request_id,
            "request": event.request_id,
        }
        if request:
            instance = next(
                (names[source] for source in ("instance", "instance_in_text") if source in order and names[source]),
                None,
            )
            # Somebody's request belongs to a project. What a service does by itself (periodic tasks go through all
            # instances of a host under one request id) is about no instance but those that its lines name.
            if instance and event.project_id:
                self._link(request, instance)
            linked = self._instance_of_request.get(request)
            # Only while that instance's session is open: a request must not bring a closed session back, not even one
            # that this line itself will close by moving the clock.
            session = self._by_opening.get(("instance", linked)) if linked else None
            if session and now_s < self._due_s(session):
                names["request_instance"] = linked
        for source in order:
            name = names[source]
            if name:
                return _KIND_OF_SOURCE[source], name
        if self.rules.unkeyed == "window":
            return "window", f"{event.host or '-'}/{event.service or event.logger.partition('.')[0] or '-'}"
        return None

    def _link(self, request: str, instance: str) -> None:
        """Remember which instance a request is about; none, once it has named a second one."""
        known = self._instance_of_request.get(request, instance)
        self._instance_of_request[request] = instance if known == instance else _SEVERAL
        self._instance_of_request.move_to_end(request)
        if len(self._instance_of_request) > _MAX_LINKS:
            self._instance_of_request.popitem(last=False)

    def _open(self, key: _Key, event: Event, offset: int) -> Session:
        kind, name = key
        session = Session(name, kind, self.watermark_s, self.watermark_s, offset, self._index)
        before = self._tombstones.pop(key, None)
        if before is not None and self.watermark_s - before.closed_s < self.rules.tombstone_s:
            if before.close_reason in ("max_age", "max_lines", "memory"):
                session.part = before.part + 1
                session.late = before.late
            elif before.close_reason == "terminal":
                session.late = True
            else:
                session.late = event.time_s < before.closed_s
        self._by_opening[key] = session
        return session

    def _append(self, session: Session, event: Event, offset: int) -> None:
        head = self._masks.mask(f"{event.level} {event.logger} {event.message}" if event.logger else event.message)
        exception = exception_line((event.message, *event.continuation))
        line = Line(
            event.time_s, offset, head, self._masks.mask(exception) if exception else "", event.raw[:MAX_RAW_CHARS]
        )
        for text in event.continuation:
            line.extend_raw(text)
        session.lines.append(line)
        self.open_lines += 1
        self.fates["late_line" if session.late else "line"] += 1
        self._parents.remember(event, session, line)
        if event.host and event.host not in session.hosts:
            session.hosts.append(event.host)
        session.project_id = session.project_id or event.project_id
        session.traceparent = session.traceparent or event.traceparent
        if session.kind != "explicit":
            session.group = session.group or event.session_id

    def _touch(self, key: _Key, session: Session, event: Event) -> None:
        session.last_seen_s = self.watermark_s
        if session.kind == "instance":
            (self._ending if session.ending else self._active).pop(key, None)
            decisive = self.rules.revival if session.ending else self.rules.terminal
            if any(piece in event.message for piece in decisive):
                session.ending = not session.ending
        queue = self._ending if session.ending else self._active
        queue[key] = session
        queue.move_to_end(key)

    def _quietest(self) -> _Key:
        fronts = [next(iter(queue.items())) for queue in (self._ending, self._active) if queue]
        return min(fronts, key=lambda front: front[1].last_seen_s)[0]

    def _quiet_s(self, session: Session) -> float:
        return session.last_seen_s + (self._grace_s if session.ending else self.rules.idle_gap_s)

    def _due_s(self, session: Session) -> float:
        return min(self._quiet_s(session), session.opened_s + self.rules.max_age_s)

    def _close_due(self, key: _Key, session: Session) -> Session:
        """Close for what was due first, so that it makes no difference in how many steps the watermark came here."""
        due_s = self._due_s(session)
        if due_s < self._quiet_s(session):
            return self._close(key, "max_age", due_s)
        return self._close(key, "terminal" if session.ending else "idle", due_s)

    def _close(self, key: _Key, reason: str, time_s: float) -> Session:
        session = self._by_opening.pop(key)
        (self._ending if session.ending else self._active).pop(key)
        session.close_reason = reason
        session.closed_s = time_s
        self.open_lines -= len(session.lines)
        self._bury(key, _Tombstone(reason, time_s, session.part, session.late))
        return session

    def _bury(self, key: _Key, tombstone: _Tombstone) -> None:
        graves = self._tombstones
        graves[key] = tombstone
        forgotten_s = self.watermark_s - self.rules.tombstone_s
        while len(graves) > _MAX_TOMBSTONES or (graves and next(iter(graves.values())).closed_s <= forgotten_s):
            graves.popitem(last=False)
