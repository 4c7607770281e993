"""One assigned input partition: its open sessions, its clock, and the offset that may be committed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loggpt_stream.lines.decode import decode

if TYPE_CHECKING:
    from loggpt_stream.lines.record import Record
    from loggpt_stream.lines.session import Session
    from loggpt_stream.lines.sessionizer import Sessionizer
    from loggpt_stream.model.calibration import Judge


class Partition:
    """State of one partition from its assignment to its revocation. No I/O; time is an argument."""

    def __init__(
        self, topic: str, number: int, sessionizer: Sessionizer, judge: Judge, *, shape: str | None = None
    ) -> None:
        """Start with nothing read."""
        self.topic = topic
        self.number = number
        self.sessionizer = sessionizer
        self.judge = judge
        self.position: int | None = None
        self._shape = shape
        self._held: dict[int, int] = {}
        self._next_hold = 0
        self._quiet_since_s: float | None = None
        self._quiet_watermark_s = 0.0
        self._ticked_s = float("-inf")

    def feed(self, record: Record, now_s: float) -> list[Session]:
        """Take the next record and return the sessions that closed.

        Raises `UndecodableError` where the record holds no log event; it counts as read all the same.
        """
        self.position = record.offset + 1
        self._quiet_since_s = now_s
        self._ticked_s = float("-inf")
        closed: list[Session] = []
        # A record from the future says that some clock is wrong; the daemon's own is the better guess.
        arrival_s = min(record.timestamp_s, now_s)
        for event in decode(record, pin=self._shape):
            closed += self.sessionizer.add(event, record.offset, arrival_s)
        self._quiet_watermark_s = self.sessionizer.watermark_s
        return closed

    def tick(self, now_s: float, *, caught_up: bool, clock_speed: float) -> list[Session]:
        """Let time pass on a silent partition and return the sessions that this closes.

        Only once it is `caught_up`: while there are records to read, their time decides.
        """
        if not caught_up or self._quiet_since_s is None:
            self._quiet_since_s = None if self.position is None else now_s
            return []
        self._ticked_s = self._quiet_watermark_s + (now_s - self._quiet_since_s) * clock_speed
        return self.sessionizer.close_due(self._ticked_s)

    @property
    def reached_s(self) -> float:
        """Return the record time that this partition has come to: its watermark, or later where it has been silent."""
        return max(self._ticked_s, self.sessionizer.watermark_s)

    def hold(self, offset: int) -> int:
        """Keep `offset` from being passed by a commit until `release` of the number returned."""
        self._next_hold += 1
        self._held[self._next_hold] = offset
        return self._next_hold

    def release(self, hold: int) -> None:
        """Let commits pass what `hold` held."""
        del self._held[hold]

    @property
    def committable(self) -> int | None:
        """Return the offset to commit: of the first line that is still needed, else the next to read.

        A line is needed as long as its session is open, or closed but not scored and published, or its dead letter is
        not delivered. None where nothing was read. (Exactly-once delivery replaces this one rule.)
        """
        if self.position is None:
            return None
        needed = [self.position, *self._held.values()]
        oldest = self.sessionizer.oldest_open_offset
        return min(needed if oldest is None else [oldest, *needed])
