"""What changed in a partition's sessions since somebody last asked, as JSON-ready values, and applying it.

A change is a set of tables (`lines.columns`) with named fields: sessions, their lines one after the other with numbers
as differences, ends, links and so on, which compress to a few bytes a line. A snapshot is a change from nothing, so
that there is one format and one reader. Raw text is not stored: where a line stands in the input topic is. This is
format 2; what was written in format 1 is converted before it comes here (`lines.state_formats`).

    restored = SessionRestore(rules.tombstone_s)
    for change in changes:      # a snapshot and what came after it
        restored.apply(change)

holds what the `Sessionizer` that wrote them had: open sessions, closed ones that nobody had judged (`pending`), the
closed ones it remembers, requests, and the events that continuation lines may belong to.
"""

from __future__ import annotations

from itertools import accumulate, islice
from typing import TYPE_CHECKING, Any, Final
from weakref import ref

from loggpt_stream.lines.columns import column, of_columns, rows, table
from loggpt_stream.lines.continuation import Parent, TracebackReader
from loggpt_stream.lines.session import LINE_BYTES, REST_BYTES, Line, Session
from loggpt_stream.lines.tables import NEVER, Tables, Tombstone

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from loggpt_stream.lines.tables import Key

Identity = tuple[int, int]
Pending = dict[Identity, Session]

_US: Final = 1_000_000

# The tables of a change: their fields, with what holds where a field is absent. Add to them; a change of meaning is a
# new format. Times are in microseconds of the epoch. `first_offset` and `first_index` identify a session.
CLOCK: Final = {"watermark_us": None, "offset": -1, "index": 0}
# first_offset and seen_us: differences to the row before. known: how many lines were stored before; count: those here.
SESSIONS: Final = {"first_offset": 0, "first_index": 0, "seen_us": 0, "known": 0, "count": 0}
# Of sessions that are new or changed. session: the row in the table of sessions.
HEADS: Final = {
    "session": 0,
    "kind": "",
    "key": "",
    "opened_us": 0,
    "part": 0,
    "late": 0,
    "group": None,
    "project_id": None,
    "traceparent": None,
    "hosts": None,
    "ending": 0,
    "announced_us": None,
    "outdated": 0,
}
# time (in units of as many microseconds as `unit` says) and offset: differences. head, tail: which of the texts.
LINES: Final = {"time": 0, "offset": 0, "index": 0, "head": 0, "tail": None, "rest": None}
ENDS: Final = {
    "first_offset": 0,
    "first_index": 0,
    "kind": "",
    "key": "",
    "reason": "",
    "closed_us": 0,
    "part": 0,
    "late": 0,
    "judged": 0,
}
JUDGED: Final = {"first_offset": 0, "first_index": 0}
TOMBSTONES: Final = {"kind": "", "key": "", "reason": "", "closed_us": 0, "part": 0, "late": 0}
# Of a request: its instance, or the open session that has the instance's name (first_offset is not None then).
LINKS: Final = {"request": "", "instance": "", "first_offset": None, "first_index": 0}
# The line that an event became: of the open session at first_offset; of one that is closed (gone); or none.
PARENTS: Final = {
    "source": "",
    "process": "",
    "logger": "",
    "time_s": 0.0,
    "gone": 0,
    "first_offset": None,
    "first_index": 0,
    "line": 0,
    "in_frames": 0,
    "session_id": None,
    "headerless": 0,
    "newest": 0,
}


class SessionChanges:
    """Notes what a `Sessionizer` changes, from one `take` to the next."""

    def __init__(self, tables: Tables) -> None:
        """Follow `tables`, whose content counts as known."""
        self._tables = tables
        # Those whose newest line is older than the last `take`, but of which something else changed.
        self._changed: dict[int, Session] = {}
        tables.parents.unsaved()
        self._closed: list[Session] = []
        self._linked: dict[str, None] = {}

    def rewrote(self, session: Session, line: int) -> None:
        """Note that a line of an open session changed: it is written again, with those after it."""
        if session.saved is not None:
            session.saved = min(session.saved[0], line), session.saved[1]
        self._changed[id(session)] = session

    def announced(self, session: Session) -> None:
        """Note that there was an early alert of an open session."""
        self._changed[id(session)] = session

    def closed(self, sessions: Iterable[Session]) -> None:
        """Note that sessions closed, in this order."""
        self._closed += sessions

    def linked(self, request: str) -> None:
        """Note that it is known, or no longer known, which instance a request is about."""
        self._linked[request] = None

    def take(self, judged: Sequence[Session]) -> dict[str, Any]:
        """Return what changed since the last `take`; `judged` are the closed sessions that are done with since then."""
        tables, parents = self._tables, self._tables.parents
        done = {id(session) for session in judged}
        # Of a session that came and went in between, only that it was there need be known.
        kept = [session for session in self._unsaved() if id(session) not in done]
        change = _clock(tables) | _sessions(kept)
        closed = {id(session) for session in self._closed}
        links = [_link(each, tables.instance_of_request.get(each, ""), tables) for each in self._linked]
        change |= {
            "ends": table(ENDS, [_end(session, done=id(session) in done) for session in self._closed]),
            "judged": table(JUDGED, [session.identity for session in judged if id(session) not in closed]),
            "links": table(LINKS, links),
            "parents": table(PARENTS, [_parent(each, newest=parents.is_newest(each)) for each in parents.unsaved()]),
        }
        self._forget()
        return _without_empty(change)

    def everything(self, pending: Iterable[Session]) -> dict[str, Any]:
        """Return all that there is, closed sessions that nobody has judged (`pending`) included: a snapshot."""
        tables, parents = self._tables, self._tables.parents
        waiting = list(pending)
        for session in (*tables.by_opening.values(), *waiting):
            session.saved, session.unsaved = None, False
        change = _clock(tables) | _sessions([*tables.active.values(), *tables.ending.values(), *waiting])
        graves = tables.tombstones.items()
        links = tables.instance_of_request.items()
        change |= {
            "ends": table(ENDS, [_end(session, done=False) for session in waiting]),
            "tombstones": table(TOMBSTONES, [_tombstone(key, grave) for key, grave in graves]),
            "links": table(LINKS, [_link(request, instance, tables) for request, instance in links]),
            "parents": table(PARENTS, [_parent(each, newest=parents.is_newest(each)) for each in parents]),
        }
        parents.unsaved()
        self._forget()
        return _without_empty(change)

    def _unsaved(self) -> Iterator[Session]:
        """Yield the sessions of which something changed, those with new lines last and in the order of the newest.

        Each queue is in that order, so that whoever got a line stands at its end.
        """
        newest = []
        for queue in (self._tables.active, self._tables.ending):
            for session in reversed(queue.values()):
                if not session.unsaved:
                    break
                newest.append(session)
        newest += [session for session in self._closed if session.unsaved]
        for session in newest:
            session.unsaved = False
        seen = {id(session) for session in newest}
        yield from (session for number, session in self._changed.items() if number not in seen)
        yield from reversed(newest)

    def _forget(self) -> None:
        self._changed.clear()
        self._closed.clear()
        self._linked.clear()


class SessionRestore:
    """Tables and pending sessions as they were after the changes applied so far, from nothing on."""

    def __init__(self, tombstone_s: float) -> None:
        """`tombstone_s` as of the session rules."""
        self.tables = Tables()
        self.pending: Pending = {}
        self._tombstone_s = tombstone_s
        self._of_identity: dict[Identity, Session] = {}

    def apply(self, change: dict[str, Any]) -> None:
        """Bring this from what it was before a change to what it was after it.

        Raises `KeyError`, `IndexError`, `TypeError` or `ValueError` where the change does not fit what is there.
        """
        tables = self.tables
        clock = CLOCK | change.get("clock", {})
        tables.watermark_s = NEVER if clock["watermark_us"] is None else clock["watermark_us"] / _US
        tables.offset, tables.index = clock["offset"], clock["index"]
        touched = _read_sessions(change, self._of_identity, tables)
        for kind, key, reason, closed_us, part, late in rows(TOMBSTONES, change.get("tombstones", {})):
            tables.tombstones[kind, key] = Tombstone(reason, closed_us / _US, part, bool(late))
        for end in rows(ENDS, change.get("ends", {})):
            self._end(end)
        for first_offset, first_index in rows(JUDGED, change.get("judged", {})):
            del self.pending[first_offset, first_index]
            del self._of_identity[first_offset, first_index]
        _place([(session, grown) for session, grown in touched if not session.close_reason], tables)
        for request, instance, first_offset, first_index in rows(LINKS, change.get("links", {})):
            named = instance if first_offset is None else self._of_identity[first_offset, first_index].key
            tables.link(request, named)
        gone = _gone()
        for *parent, newest in rows(PARENTS, change.get("parents", {})):
            tables.parents.put(_read_parent(parent, self._of_identity, gone), newest=bool(newest))

    def _end(self, end: Sequence[Any]) -> None:
        first_offset, first_index, kind, key, reason, closed_us, part, late, done = end
        session = self._of_identity.get((first_offset, first_index))
        if session is not None:
            if self.tables.by_opening.get((kind, key)) is session:
                self.tables.close(session)
            session.close_reason, session.closed_s = reason, closed_us / _US
            if done:
                del self._of_identity[session.identity]
            else:
                self.pending[session.identity] = session
        self.tables.bury((kind, key), Tombstone(reason, closed_us / _US, part, bool(late)), self._tombstone_s)


def _place(still_open: Sequence[tuple[Session, bool]], tables: Tables) -> None:
    """Take in the open sessions of a change, of which those that got lines are in order of their newest.

    A key can have been closed and opened again in between: its new session is taken in when the old one is gone. Who
    got no line, but a continuation or an early alert, stays where it is in its queue.
    """
    by_opening = tables.by_opening
    new = [session for session, _ in still_open if by_opening.get((session.kind, session.key)) is not session]
    for session in sorted(new, key=lambda each: each.identity):
        tables.open(session)
    for session, grown in still_open:
        if grown:
            tables.place(session)


def _clock(tables: Tables) -> dict[str, Any]:
    watermark_us = None if tables.watermark_s == NEVER else _us(tables.watermark_s)
    return {"clock": {"watermark_us": watermark_us, "offset": tables.offset, "index": tables.index}}


def _without_empty(change: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in change.items() if value}


def _sessions(sessions: Sequence[Session]) -> dict[str, Any]:
    """Return the tables of sessions, with the lines of each that are not saved yet, and note that they are now."""
    texts: dict[str, int] = {}
    heads: list[tuple[Any, ...]] = []
    known_lines, counts, seen = [], [], []
    lines: list[Line] = []
    for place, session in enumerate(sessions):
        known, signature = session.saved or (0, None)
        now = _signature(session)
        if now != signature:
            heads.append((place, *_head(session)))
        known_lines.append(known)
        counts.append(len(session.lines) - known)
        seen.append(_us(session.last_seen_s))
        lines += session.lines[known:] if known else session.lines
        session.saved = len(session.lines), now
    columns: dict[str, list[Any]] = {
        "first_offset": _differences([session.first_offset for session in sessions]),
        "first_index": [session.first_index for session in sessions],
        "seen_us": _differences(seen),
        "known": known_lines,
        "count": counts,
    }
    times = [round(line.time_s * _US) for line in lines]
    # Most writers have milliseconds.
    unit = 1 if any(time % 1000 for time in times) else 1000
    of_lines: dict[str, list[Any]] = {
        "time": _differences([time // unit for time in times]),
        "offset": _differences([line.offset for line in lines]),
        "index": [line.index for line in lines],
        "head": [texts.setdefault(line.head, len(texts)) for line in lines],
        "tail": [texts.setdefault(line.tail, len(texts)) if line.tail else None for line in lines],
        "rest": [line.rest or None for line in lines],
    }
    return {
        "sessions": of_columns(SESSIONS, len(sessions), columns),
        "heads": table(HEADS, heads),
        "unit": unit,
        "lines": of_columns(LINES, len(lines), of_lines),
        "texts": list(texts),
    }


def _signature(session: Session) -> int:
    """Return a number that changes with whatever `_head` says of a session."""
    may_change = (session.group, session.project_id, session.traceparent, len(session.hosts), session.ending)
    return hash((*may_change, session.announced_s, session.outdated))


def _head(session: Session) -> tuple[Any, ...]:
    """Return a row of HEADS, but for the place."""
    return (
        session.kind,
        session.key,
        _us(session.opened_s),
        session.part,
        int(session.late),
        session.group,
        session.project_id,
        session.traceparent,
        session.hosts or None,
        int(session.ending),
        None if session.announced_s is None else _us(session.announced_s),
        int(session.outdated),
    )


def _read_sessions(
    change: dict[str, Any], of_identity: dict[Identity, Session], tables: Tables
) -> list[tuple[Session, bool]]:
    """Return the sessions of a change, in order, with their lines; and of each whether it has any more than before."""
    heads = {place: head for place, *head in rows(HEADS, change.get("heads", {}))}
    lines = _read_lines(change)
    sessions = []
    stored = change.get("sessions", {})
    first_offsets = accumulate(column(SESSIONS, stored, "first_offset"))
    seen = accumulate(column(SESSIONS, stored, "seen_us"))
    others = [column(SESSIONS, stored, name) for name in ("first_index", "known", "count")]
    columns = zip(first_offsets, seen, *others, strict=True)
    for place, (first_offset, seen_us, first_index, known, count) in enumerate(columns):
        identity = first_offset, first_index
        head = heads.get(place)
        session = of_identity.get(identity)
        if session is None:
            if head is None:
                raise ValueError(f"session {identity} grows, but is not known")
            session = of_identity[identity] = Session(head[1], head[0], 0.0, 0.0, *identity)
            is_open = False
        else:
            is_open = tables.by_opening.get((session.kind, session.key)) is session
        if head is not None:
            _read_head(head, session)
        if known > len(session.lines):
            raise ValueError(f"session {identity} has {len(session.lines)} lines, not the {known} that were there")
        grown, before = known + count - len(session.lines), _size(session.lines[known:])
        session.lines[known:] = islice(lines, count)
        session.last_seen_s = seen_us / _US
        session.bytes += (size := _size(session.lines[known:]) - before)
        if is_open:
            tables.open_lines += grown
            tables.open_bytes += size
        session.saved = len(session.lines), _signature(session)
        sessions.append((session, grown > 0))
    return sessions


def _size(lines: Sequence[Line]) -> int:
    """Return the memory of lines without raw text: that stays in the topic."""
    return LINE_BYTES * len(lines) + REST_BYTES * sum(len(line.rest) for line in lines if line.rest)


def _read_head(head: Sequence[Any], session: Session) -> None:
    _, _, opened_us, session.part, late, session.group, session.project_id, session.traceparent, hosts, *rest = head
    ending, announced_us, outdated = rest
    session.opened_s = opened_us / _US
    session.late, session.ending, session.outdated = bool(late), bool(ending), bool(outdated)
    session.hosts = list(hosts or ())
    session.announced_s = None if announced_us is None else announced_us / _US


def _read_lines(change: dict[str, Any]) -> Iterator[Line]:
    text, unit, stored = change.get("texts", ()), change.get("unit", 1), change.get("lines", {})
    times, offsets = (accumulate(column(LINES, stored, name)) for name in ("time", "offset"))
    others = [column(LINES, stored, name) for name in ("index", "head", "tail", "rest")]
    lines = []
    for time, offset, index, head, tail, rest in zip(times, offsets, *others, strict=True):
        line = Line(time * unit / _US, offset, text[head], "", "", index)
        if tail is not None:
            line.tail = text[tail]
        if rest is not None:
            line.rest = [(offset, index) for offset, index in rest]
        lines.append(line)
    return iter(lines)


def _end(session: Session, *, done: bool) -> tuple[Any, ...]:
    """Return a row of ENDS."""
    grave = (session.close_reason, _us(session.closed_s), session.part, int(session.late))
    return (*session.identity, session.kind, session.key, *grave, int(done))


def _tombstone(key: Key, grave: Tombstone) -> tuple[Any, ...]:
    """Return a row of TOMBSTONES."""
    return (*key, grave.close_reason, _us(grave.closed_s), grave.part, int(grave.late))


def _link(request: str, instance: str, tables: Tables) -> tuple[Any, ...]:
    """Return a row of LINKS; an instance whose session is open is named by that, in fewer bytes."""
    session = tables.by_opening.get(("instance", instance))
    return (request, instance, None, 0) if session is None else (request, "", *session.identity)


def _parent(parent: Parent, *, newest: bool) -> tuple[Any, ...]:
    """Return a row of PARENTS."""
    session = parent.session() if parent.session is not None else None
    place: tuple[Any, ...] = int(parent.session is not None), None, 0, 0
    if session is not None and not session.close_reason:
        place = 0, *session.identity, parent.line
    flags = (int(parent.reader.in_frames), parent.session_id, int(parent.headerless), int(newest))
    return (*parent.writer, parent.time_s, *place, *flags)


def _read_parent(values: Sequence[Any], of_identity: dict[Identity, Session], gone: ref[Session]) -> Parent:
    source, process, logger, time_s, is_gone, first_offset, first_index, line, *flags = values
    in_frames, session_id, headerless = flags
    reader = TracebackReader()
    reader.in_frames = bool(in_frames)
    session = gone if is_gone else None
    if first_offset is not None:
        known = of_identity.get((first_offset, first_index))
        session = gone if known is None else ref(known)
    return Parent((source, process, logger), time_s, session, line, reader, session_id, bool(headerless))


def _gone() -> ref[Session]:
    """Return a reference to a session that is no more."""
    return ref(Session("", "", 0.0, 0.0, 0))


def _us(time_s: float) -> int:
    return round(time_s * _US)


def _differences(values: Sequence[int]) -> list[int]:
    return [after - before for before, after in zip((0, *values), values, strict=False)]
