"""Tracebacks and other continuation lines: which event they belong to, and what of them the model sees.

A traceback arrives inside one record, or as one record a line, each with a header (oslo.log's exception prefix).
Either way the event's text gains one thing: the last exception line (`ValueError: bad flavor`), which says most in the
fewest words. Frames differ between releases of the same failure and are kept only in the raw text.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from weakref import ReferenceType, ref

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loggpt_stream.lines.record import Event
    from loggpt_stream.lines.session import Session

_TRACEBACK: Final = "Traceback (most recent call last):"
_MAX_PARENTS: Final = 1024
_SAME_TIME_S: Final = 0.0005

Writer = tuple[str, str, str]


class TracebackReader:
    """Reads continuation lines one by one and knows the newest exception line among them."""

    __slots__ = ("exception", "in_frames")

    def __init__(self) -> None:
        """Start outside any traceback."""
        self.in_frames = False
        self.exception = ""

    def read(self, line: str) -> bool:
        """Take the next line; return True where it is a (new) exception line."""
        if line.startswith(_TRACEBACK):
            self.in_frames = True
        elif self.in_frames and line and not line[0].isspace():
            self.in_frames = False
            self.exception = line
            return True
        return False


def stands_alone(fragment: Event) -> bool:
    """Tell whether a fragment without an event that it continues is a line of its own.

    Frames and blank lines without the event they belong to say nothing; an exception line alone does.
    """
    return bool(fragment.message[:1].strip() or (fragment.message.strip() and not fragment.logger))


@dataclass(slots=True)
class Parent:
    """An event that fragments may continue, and where the line it became stands (`session` None: it became none).

    writer: source, process id and logger. line: its index in the session. session_id: the explicit id that its record
    carried. headerless: it had no header of its own (what has none and is not indented after it is a line like it, and
    not its continuation).
    session: a weak reference. Thousands of writers are remembered, and a closed session must not live on for them.
    key: where its record went, for those who sort records and gather no sessions. unsaved: it is not stored yet (see
    `lines.session_changes`).
    """

    writer: Writer
    time_s: float
    session: ReferenceType[Session] | None
    line: int
    reader: TracebackReader
    session_id: str | None
    headerless: bool
    key: str = ""
    unsaved: bool = True


class Parents:
    """The newest event of each writer on one partition, to which fragments may belong. Bounded: oldest forgotten."""

    def __init__(self) -> None:
        """Start with no events seen."""
        # Stored events of which something changed since.
        self._changed: dict[Writer, Parent] = {}
        self._of_writer: OrderedDict[Writer, Parent] = OrderedDict()
        self._of_source: OrderedDict[str, Parent] = OrderedDict()

    def __iter__(self) -> Iterator[Parent]:
        """Yield the event of each writer, the newest last."""
        yield from self._of_writer.values()

    def is_newest(self, parent: Parent) -> bool:
        """Tell whether a line without header, from the same source, would continue this event."""
        return self._of_source.get(parent.writer[0]) is parent

    def remember(self, event: Event, session: Session | None, key: str = "") -> Parent:
        """Note that `event` became the newest line of `session`, or none, and that its record went to `key`."""
        reader = TracebackReader()
        reader.read(event.message)
        for text in event.continuation:
            reader.read(text)
        own, line = (ref(session), len(session.lines) - 1) if session is not None else (None, 0)
        writer = event.source, event.pid, event.logger
        parent = Parent(writer, event.time_s, own, line, reader, event.session_id, not event.logger, key)
        _put(self._of_writer, writer, parent)
        _put(self._of_source, event.source, parent)
        return parent

    def put(self, parent: Parent, *, newest: bool) -> None:
        """Take in the event of a writer, which is the `newest` of its source or not."""
        _put(self._of_writer, parent.writer, parent)
        if newest:
            _put(self._of_source, parent.writer[0], parent)

    def touch(self, parent: Parent) -> None:
        """Note that something about an event changed."""
        if not parent.unsaved:
            self._changed[parent.writer] = parent

    def unsaved(self) -> list[Parent]:
        """Return the events that are not stored as they are, the newest last; from now on they count as stored."""
        newest = []
        for parent in reversed(self._of_writer.values()):
            if not parent.unsaved:
                break
            parent.unsaved = False
            newest.append(parent)
        found = [*self._changed.values(), *reversed(newest)]
        self._changed.clear()
        return found

    def find(self, fragment: Event) -> Parent | None:
        """Return what `fragment` continues, or None where there is no such event.

        A traceback line repeats its event's time, process and logger. A line without header continues the newest event
        of its source.
        """
        if not fragment.logger:
            parent = self._of_source.get(fragment.source)
            return parent if parent is not None and _goes_on(parent, fragment) else None
        parent = self._of_writer.get((fragment.source, fragment.pid, fragment.logger))
        if parent is None or abs(parent.time_s - fragment.time_s) >= _SAME_TIME_S:
            return None
        # Lines without header that follow (the rest of a message with line ends in it) continue this event too.
        _put(self._of_source, fragment.source, parent)
        self.touch(parent)
        return parent


def _goes_on(parent: Parent, fragment: Event) -> bool:
    """Tell whether a line without header may continue `parent`: it names no other session, and reads like a rest."""
    if fragment.session_id and fragment.session_id != parent.session_id:
        return False
    return not parent.headerless or not fragment.message[:1].strip() or parent.reader.in_frames


def _put(table: OrderedDict[Any, Parent], key: object, parent: Parent) -> None:
    table[key] = parent
    table.move_to_end(key)
    if len(table) > _MAX_PARENTS:
        table.popitem(last=False)
