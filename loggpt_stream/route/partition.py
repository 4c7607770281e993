"""One partition of raw records while this process owns it: where it stands, and what its next transaction owes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loggpt_stream.kafka.changelog import applied, place_fields, place_of
from loggpt_stream.kafka.partition_task import PendingCommit
from loggpt_stream.kafka.transactions import Stamped
from loggpt_stream.lines.decode import ABOUT_SEVERAL, decode
from loggpt_stream.lines.record import UndecodableError
from loggpt_stream.route.keys import Keys

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loggpt_stream.kafka.changelog import Change, Changelog
    from loggpt_stream.lines.record import Record
    from loggpt_stream.lines.shapes import Shape


@dataclass(frozen=True, slots=True)
class RecordCommit(PendingCommit):
    """The records up to `position` that are not in the output topic yet.

    size_bytes: of the values. kinds, undecodable: how many records had which kind
    of key, or no event, and why. mixed: how many hold lines of several sessions.
    """

    records: list[Stamped]
    size_bytes: int
    kinds: Counter[str]
    undecodable: Counter[str]
    mixed: int


class RoutedPartition:
    """State of one partition from its restoring to its loss. No I/O.

    position: offset of the next record; None until it is known where to begin. waiting_bytes: of the values that wait
    for a transaction. dropped: set once the partition is lost.
    """

    def __init__(
        self, topic: str, number: int, order: Sequence[str], shape: Shape | None, changelog: Changelog
    ) -> None:
        """Start with nothing read. `order`: of keys, as in the session rules. shape: see `decode`.

        `changelog` is at the end of what `restore` will be given.
        """
        self.number = number
        self.position: int | None = None
        self.last_record: tuple[int, int] | None = None
        self.dropped = False
        self.waiting_bytes = 0
        self._origin = ("loggpt_route_topic", topic.encode()), ("loggpt_route_partition", b"%d" % number)
        self._shape = shape
        self._changelog = changelog
        self._keys = Keys(order)
        self._owes = False
        self._begin_batch()

    def _begin_batch(self) -> None:
        self._records: list[Stamped] = []
        self._kinds: Counter[str] = Counter()
        self._undecodable: Counter[str] = Counter()
        self._mixed = 0
        self.waiting_bytes = 0

    @property
    def waiting(self) -> int:
        """Return how many records wait for a transaction."""
        return len(self._records)

    def restore(self, changes: list[Change]) -> None:
        """Go on where `changes` end: a snapshot and what came after it. Raises `UserError` where they do not fit."""
        applied(changes, self._keys.apply)
        if changes:
            self.position, self.last_record = place_of(changes[-1])

    def begin_at(self, position: int) -> None:
        """Read on at `position`, which is not where it was: a new group, or records that are gone."""
        self.position, self.last_record = position, None
        self._owes = True

    def skip_to(self, position: int) -> None:
        """Note that there is nothing to be read before `position`, but control records."""
        self.position = position

    def feed(self, record: Record) -> None:
        """Take the next record. One without log event keeps its key: the daemon says what is wrong with it."""
        timestamp_ms = record.timestamp_ms
        key = record.key
        headers = [*record.headers, *self._origin, ("loggpt_route_offset", b"%d" % record.offset)]
        try:
            choice = self._keys.choose(decode(record, pin=self._shape))
        except UndecodableError as error:
            self._undecodable[error.reason] += 1
        else:
            key = choice.key.encode()
            self._kinds[choice.kind] += 1
            if choice.about_several:
                headers.append((ABOUT_SEVERAL, b"1"))
            self._mixed += choice.mixed
        self._records.append(Stamped(key, record.value, headers, timestamp_ms))
        self.waiting_bytes += len(record.value or b"")
        self.position = record.offset + 1
        self.last_record = record.offset, timestamp_ms
        self._owes = True

    def take(self) -> RecordCommit | None:
        """Return all that is not in Kafka yet, as of now; None where there is nothing.

        From here on it counts as written. Where that fails, this object is of no more use: restore another one.
        """
        if not (self._owes or self._changelog.format_due) or self.position is None:
            return None
        snapshot = self._changelog.snapshot_due
        change = self._keys.everything() if snapshot else self._keys.changes()
        change |= place_fields(self.position, self.last_record)
        state = self._changelog.write(change, snapshot=snapshot)
        pending = RecordCommit(
            self.position,
            state,
            self._records,
            self.waiting_bytes,
            self._kinds,
            self._undecodable,
            self._mixed,
        )
        self._begin_batch()
        self._owes = False
        return pending
