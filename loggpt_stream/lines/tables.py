"""What a `Sessionizer` remembers between two lines, and how much of it."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from loggpt_stream.lines.continuation import Parents
from loggpt_stream.lines.names import reason_continues

if TYPE_CHECKING:
    from loggpt_stream.lines.session import Session

MAX_LINKS: Final = 32_768
MAX_TOMBSTONES: Final = 65_536
NEVER: Final = float("-inf")

Key = tuple[str, str]


class Tombstone(NamedTuple):
    """What is remembered of a closed session, for `tombstone_s`: enough to know late lines and next parts by."""

    close_reason: str
    closed_s: float
    part: int
    late: bool

    @property
    def continues(self) -> bool:
        """Tell whether the session was cut by a limit, so that its next line begins a further part."""
        return reason_continues(self.close_reason)


@dataclass(slots=True)
class Tables:
    """All state of a `Sessionizer`; what follows from a line depends on this and on the line alone.

    watermark_s: newest record time seen (epoch seconds). offset, index: of the newest event: its record, and which of
    that record's events it is. A session is in `by_opening` and in one of `active` and `ending`; all three are in order
    of their watermarks, so that whatever is due stands at the front. open_bytes: memory of the open sessions, about.
    """

    watermark_s: float = NEVER
    offset: int = -1
    index: int = 0
    by_opening: OrderedDict[Key, Session] = field(default_factory=OrderedDict)
    active: OrderedDict[Key, Session] = field(default_factory=OrderedDict)
    ending: OrderedDict[Key, Session] = field(default_factory=OrderedDict)
    tombstones: OrderedDict[Key, Tombstone] = field(default_factory=OrderedDict)
    instance_of_request: OrderedDict[str, str] = field(default_factory=OrderedDict)
    parents: Parents = field(default_factory=Parents)
    open_lines: int = 0
    open_bytes: int = 0

    def open(self, session: Session) -> None:
        """Take in an open session whose newest line is newer than that of every other one."""
        key = session.kind, session.key
        self.tombstones.pop(key, None)
        self.by_opening[key] = session
        self.open_lines += len(session.lines)
        self.open_bytes += session.bytes
        self.place(session)

    def place(self, session: Session) -> None:
        """Put an open session at the end of the queue that it waits in: its newest line is the newest of all."""
        key = session.kind, session.key
        self.active.pop(key, None)
        self.ending.pop(key, None)
        (self.ending if session.ending else self.active)[key] = session

    def close(self, session: Session) -> None:
        """Let go of an open session."""
        key = session.kind, session.key
        del self.by_opening[key]
        self.active.pop(key, None)
        self.ending.pop(key, None)
        self.open_lines -= len(session.lines)
        self.open_bytes -= session.bytes

    def bury(self, key: Key, tombstone: Tombstone, tombstone_s: float) -> None:
        """Remember a closed session for so long, as far as there is room."""
        graves = self.tombstones
        graves[key] = tombstone
        forgotten_s = self.watermark_s - tombstone_s
        while len(graves) > MAX_TOMBSTONES or (graves and next(iter(graves.values())).closed_s <= forgotten_s):
            graves.popitem(last=False)

    def link(self, request: str, instance: str) -> None:
        """Remember which instance a request is about; beyond MAX_LINKS the oldest request is forgotten."""
        self.instance_of_request[request] = instance
        if len(self.instance_of_request) > MAX_LINKS:
            self.instance_of_request.popitem(last=False)
