"""The dead letter topic: records that held no log event, and marks of those that were put back.

A dead letter is a record as it came, with our headers behind its own (`dead_letter` of the daemon). A mark is a
record that `reinject` writes in the transaction that puts dead letters back: the offsets of its partition that are
done. Marks lie behind what they speak of, in the same partition: retention never removes them first.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Final

import orjson

from loggpt_stream.history.topic import Span, record_batches

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from loggpt_stream.kafka.settings import KafkaSettings
    from loggpt_stream.lines.record import Record

OURS: Final = "loggpt_"
REINJECTED_FROM: Final = "loggpt_reinjected_from"
_REASON: Final = "loggpt_reason"
_MARK: Final = "loggpt_reinjected"
MAX_MARKED: Final = 500  # of dead letters by one mark

Header = tuple[str, bytes]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a dead letter's record was: a topic, its partition, offset and timestamp (epoch milliseconds)."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter.

    time_s: when it was written (epoch seconds). origin: where the daemon read it; None where its headers do not say
    (whoever wrote it, it was not the daemon). routed_from: where `loggpt-stream route` had read it before that, if it
    came that way. truncated_from: bytes that its record had, where not all are here. reinjected_from: the dead letter
    (`topic/partition/offset`) that this one was before, where a record was put back and failed again.
    key, value, headers: of the record as it came, without our headers.
    """

    partition: int
    offset: int
    time_s: float
    reason: str
    detail: str
    origin: Origin | None
    routed_from: Origin | None
    truncated_from: int | None
    reinjected_from: str | None
    key: bytes | None
    value: bytes
    headers: tuple[Header, ...]


@dataclass(slots=True)
class Done:
    """Offsets of dead letters that were put back, by partition."""

    offsets: defaultdict[int, set[int]] = field(default_factory=lambda: defaultdict(set))

    def has(self, letter: Letter) -> bool:
        """Tell whether a dead letter was put back."""
        return letter.offset in self.offsets.get(letter.partition, ())

    def add(self, record: Record) -> bool:
        """Take what a record of the topic marks as done; False where it is no mark."""
        names = {name for name, _ in record.headers}
        # A dead letter keeps the headers of its record, which may say anything; but it has a reason too.
        if _MARK not in names or _REASON in names:
            return False
        try:
            spans = [(int(first), int(last)) for first, last in orjson.loads(record.value or b"")]
        except (ValueError, TypeError):
            return False
        for first, last in spans:
            self.offsets[record.partition].update(range(first, min(last + 1, first + MAX_MARKED)))
        return True


def mark(offsets: Iterable[int]) -> tuple[bytes, list[Header]]:
    """Return value and headers of the record that marks offsets (ascending) of its partition as put back."""
    spans = []
    for _, run in groupby(enumerate(offsets), key=lambda each: each[1] - each[0]):
        offsets_of_run = [offset for _, offset in run]
        spans.append((offsets_of_run[0], offsets_of_run[-1]))
    return orjson.dumps(spans), [(_MARK, b"1")]


async def read_letters(kafka: KafkaSettings, topic: str, done: Done) -> AsyncIterator[Letter]:
    """Yield the dead letters of a topic, of each partition in order; `done` learns from the marks among them.

    A mark lies behind what it speaks of: `done` is whole at the end. Raises `UserError` where broker or topic is not
    there.
    """
    async for records in record_batches(kafka, Span(topic)):
        for record in records:
            if not done.add(record):
                yield letter_of(record)


def letter_of(record: Record) -> Letter:
    """Return a record of the dead letter topic as a dead letter."""
    # Ours are the last: a record may have come with headers of the same names, and with such as have no value.
    names = [name for name, _ in record.headers]
    begin = len(names) - names[::-1].index(_REASON) - 1 if _REASON in names else len(names)
    ours = {name: (value or b"").decode(errors="replace") for name, value in record.headers[begin:]}
    theirs = record.headers[:begin]
    before = [(value or b"").decode(errors="replace") for name, value in theirs if name == REINJECTED_FROM]
    try:
        origin = Origin(
            ours["loggpt_topic"],
            int(ours["loggpt_partition"]),
            int(ours["loggpt_offset"]),
            int(ours["loggpt_timestamp_ms"]),
        )
    except (KeyError, ValueError):
        origin = None
    truncated = ours.get("loggpt_truncated_from_bytes", "")
    return Letter(
        partition=record.partition,
        offset=record.offset,
        time_s=record.timestamp_s,
        reason=ours.get(_REASON, ""),
        detail=ours.get("loggpt_detail", ""),
        origin=origin,
        routed_from=_routed_from(theirs, origin) if origin else None,
        truncated_from=int(truncated) if truncated.isdecimal() else None,
        reinjected_from=before[-1] if before else None,
        key=record.key or None,
        value=record.value or b"",
        headers=tuple(header for header in theirs if not header[0].startswith(OURS)),
    )


def _routed_from(theirs: Iterable[Header], origin: Origin) -> Origin | None:
    # The router's headers are the last of their names, and it keeps the timestamp.
    said = {name: (value or b"").decode(errors="replace") for name, value in theirs}
    try:
        return Origin(
            said["loggpt_route_topic"],
            int(said["loggpt_route_partition"]),
            int(said["loggpt_route_offset"]),
            origin.timestamp_ms,
        )
    except (KeyError, ValueError):
        return None
