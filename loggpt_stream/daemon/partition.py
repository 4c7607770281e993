"""One input partition while this process owns it: its sessions, its clock, and what its next transaction owes."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from loggpt_stream.kafka.changelog import applied, place_fields, place_of
from loggpt_stream.kafka.partition_task import PendingCommit
from loggpt_stream.lines.decode import decode
from loggpt_stream.lines.record import Record, UndecodableError, arrival_s
from loggpt_stream.lines.session_changes import Pending, SessionChanges, SessionRestore
from loggpt_stream.lines.sessionizer import Sessionizer
from loggpt_stream.lines.tables import NEVER, Tables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from loggpt_stream.alerts.alert import JudgedSession
    from loggpt_stream.kafka.changelog import Change, Changelog
    from loggpt_stream.lines.gathering import Gathering
    from loggpt_stream.lines.session import Session
    from loggpt_stream.model.calibration import Judge

# Seconds by the wall clock between two looks at a silent partition.
_LONGEST_TURN_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record without log event, and why."""

    record: Record
    error: UndecodableError


@dataclass(frozen=True, slots=True)
class SessionCommit(PendingCommit):
    """All that came of the records up to `position` and is not in Kafka yet.

    alerts: sessions to be alerted on, while open (early) and when closed. judged: every session that closed. rejected:
    dead letters.
    """

    alerts: list[JudgedSession] = field(default_factory=list)
    judged: list[JudgedSession] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)


class Partition:
    """State of one partition from its restoring to its loss. No I/O; time is an argument.

    position: offset of the next record; None until it is known where to begin. pending: closed sessions that nobody has
    judged yet, in order of their close. dropped: set once the partition is lost: whatever is still on its way for it
    is of no more use.
    """

    def __init__(
        self, topic: str, number: int, gathering: Gathering, new_judge: Callable[[], Judge], changelog: Changelog
    ) -> None:
        """Start with nothing read. `changelog` is at the end of what `restore` will be given."""
        self.topic = topic
        self.number = number
        self.position: int | None = None
        self.last_record: tuple[int, int] | None = None
        self._record: Record | None = None
        self.pending: Pending = {}
        self.dropped = False
        self._gathering = gathering
        self._new_judge = new_judge
        self._changelog = changelog
        self._begin(Tables())
        self.judge = new_judge()
        self._early: list[JudgedSession] = []
        self._judged: list[JudgedSession] = []
        self._rejected: list[Rejected] = []
        self._owes = False
        self._rewrite = False
        self._quiet_since_s: float | None = None
        self._turned_s = NEVER
        self._quiet_watermark_s = 0.0
        self._ticked_s = NEVER

    def _begin(self, tables: Tables) -> None:
        self._changes = SessionChanges(tables)
        self.sessionizer = Sessionizer(
            self._gathering.rules, self._gathering.masks, changes=self._changes, tables=tables
        )

    def limit(self, sessions: int, lines: int, size_bytes: int) -> None:
        """Let so much be open; past a limit the quietest session closes."""
        self.sessionizer.max_open_sessions = max(1, sessions)
        self.sessionizer.max_open_lines = max(1, lines)
        self.sessionizer.max_open_bytes = max(1, size_bytes)

    def restore(self, changes: list[Change]) -> None:
        """Go on where `changes` end: a snapshot and what came after it. Raises `UserError` where they do not fit."""
        if not changes:
            return
        restored = SessionRestore(self._gathering.rules.tombstone_s)
        with _no_garbage():
            applied(changes, restored.apply)
        tables, self.pending = restored.tables, restored.pending
        newest = changes[-1]
        self.position, self.last_record = place_of(newest)
        self._ticked_s = newest.get("reached_s", NEVER)
        self._begin(tables)
        if not self.judge.resume(next((each["drift"] for each in reversed(changes) if "drift" in each), {})):
            self.judge = self._new_judge()
        self._quiet_watermark_s = max(self._ticked_s, self.sessionizer.watermark_s)
        if newest.get("preprocessing") != self._gathering.fingerprint:
            for session in (*tables.by_opening.values(), *self.pending.values()):
                session.outdated = True
            self._owes = self._rewrite = True

    def begin_at(self, position: int) -> None:
        """Read on at `position`, which is not where it was: a new group, or records that are gone."""
        self.position, self.last_record, self._record = position, None, None
        self._owes = True

    def feed(self, record: Record, now_s: float) -> list[Session]:
        """Take the next record and return the sessions that closed; one without log event becomes a dead letter."""
        self.position = record.offset + 1
        self._record = record
        self._owes = True
        sessionizer, before_s = self.sessionizer, self.sessionizer.watermark_s
        came_s = arrival_s(record, now_s)
        closed: list[Session] = []
        try:
            for event in decode(record, pin=self._gathering.shape):
                closed += sessionizer.add(event, record.offset, came_s)
        except UndecodableError as error:
            self._rejected.append(Rejected(record, error))
        # What neither tells the time nor belongs to a session (dead letters, say) is silence all the same.
        if sessionizer.newest_line == record.offset or sessionizer.watermark_s > before_s:
            self._quiet_since_s = self._turned_s = now_s
            self._ticked_s, self._quiet_watermark_s = NEVER, sessionizer.watermark_s
        return self._closed(closed) if closed else closed

    def tick(self, now_s: float, *, caught_up: bool, clock_speed: float) -> list[Session]:
        """Let time pass on a silent partition and return the sessions that this closes.

        Only once it is `caught_up`: while there are records to read, their time decides.
        """
        turn_s, self._turned_s = now_s - self._turned_s, now_s
        # Who was frozen, or whose clock was set, knows nothing of that time: lines may have come in it.
        known = caught_up and 0 <= turn_s <= _LONGEST_TURN_S
        if not known or self._quiet_since_s is None:
            # The time that did pass in silence is not forgotten.
            self._quiet_watermark_s = max(self._quiet_watermark_s, self._ticked_s)
            self._quiet_since_s = None if self.position is None else now_s
            return []
        self._ticked_s = self._quiet_watermark_s + (now_s - self._quiet_since_s) * clock_speed
        return self._closed(self.sessionizer.close_due(self._ticked_s))

    def flush(self) -> list[Session]:
        """Close every open session: the topic that they came from is no more."""
        return self._closed(self.sessionizer.flush())

    def skip_to(self, position: int) -> None:
        """Note that there is nothing to be read before `position`, but control records."""
        self.position = position

    @property
    def reached_s(self) -> float:
        """Return the record time that this partition has come to: its watermark, or later where it has been silent."""
        return max(self._ticked_s, self.sessionizer.watermark_s)

    def announce(self, judged: JudgedSession, now_s: float) -> None:
        """Publish the early alert of a session with the next transaction; nothing if it is open no more."""
        session = self.sessionizer.tables.by_opening.get((judged.session.kind, judged.session.key))
        if session is None or session.identity != judged.session.identity:
            return
        session.announced_s = judged.session.announced_s = now_s
        self._changes.announced(session)
        self._early.append(judged)
        self._owes = True

    def judged(self, judged: JudgedSession) -> bool:
        """Publish what became of a pending session with the next transaction; tell whether that is an alert."""
        del self.pending[judged.session.identity]
        self._judged.append(judged)
        self._owes = True
        return judged.alarms

    def take(self) -> SessionCommit | None:
        """Return all that is not in Kafka yet, as of now; None where there is nothing.

        From here on it counts as written. Where that fails, this object is of no more use: restore another one.
        """
        if not (self._owes or self._changelog.format_due) or self.position is None:
            return None
        snapshot = self._changelog.snapshot_due or self._rewrite
        if snapshot:
            change = self._changes.everything(self.pending.values())
        else:
            change = self._changes.take([judged.session for judged in self._judged])
        if self._record is not None:
            self.last_record = self._record.offset, self._record.timestamp_ms
        change |= place_fields(self.position, self.last_record) | {"preprocessing": self._gathering.fingerprint}
        if self._ticked_s != NEVER:
            change["reached_s"] = self._ticked_s
        if snapshot or self._judged:
            change["drift"] = self.judge.state()
        state = self._changelog.write(change, snapshot=snapshot)
        alerts = [*self._early, *(judged for judged in self._judged if judged.alarms)]
        pending = SessionCommit(self.position, state, alerts, self._judged, self._rejected)
        self._early, self._judged, self._rejected = [], [], []
        self._owes = self._rewrite = False
        return pending

    def _closed(self, sessions: Iterable[Session]) -> list[Session]:
        closed = list(sessions)
        for session in closed:
            self.pending[session.identity] = session
            self._owes = True
        return closed


@contextmanager
def _no_garbage() -> Iterator[None]:
    """Let the garbage collector rest: it would look many times at millions of new objects, all of which stay."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
