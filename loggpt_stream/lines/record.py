"""What enters and leaves the decoder: a Kafka record, and the log events found in it.

Neither is changed once it is made. They are not frozen, because that would cost as much a line as masking does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from loggpt_stream.lines.names import DeadLetterReason

# Kafka is from 2011. What is stamped earlier has no timestamp (-1, by KIP-32), or seconds for milliseconds; what is
# stamped later than the year 3000 has micro- or nanoseconds.
_KAFKA_S: Final = 946_684_800.0
LATEST_S: Final = 32_503_680_000.0
_MAX_INT64: Final = 2**63 - 1


@dataclass(slots=True)
class Record:
    """One Kafka record, or one line of a file dressed as one.

    `timestamp_s` is the record's own timestamp in epoch seconds (Kafka's, not the log line's).
    `offset` is the Kafka offset, or the line number (from 0) in a file.
    """

    value: bytes | None
    topic: str
    partition: int
    offset: int
    timestamp_s: float
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()

    @property
    def timestamp_ms(self) -> int:
        """Return the record's timestamp as Kafka takes one; of nanoseconds the last digits are lost."""
        return min(round(self.timestamp_s * 1000), _MAX_INT64)


@dataclass(slots=True)
class Event:
    """One log event, the same whichever shipper brought it.

    time_s: the line's own time in epoch seconds, else the envelope's, else Kafka's; naive text times are read as UTC
        (only differences matter: a session never compares them with the wall clock).
    level, logger: "" where the line has no oslo.log header.
    message: first line of the message without header, request context and `[instance: …]`, with oslo.log's
        error summary (`…: ExceptionType: text`) where the shape keeps it apart.
    raw: what an operator would see in the log file: the whole header line (for JSON shapes: rebuilt in oslo.log's text
        layout), without continuation lines.
    continuation: further lines of this event that came in the same record (rest of the message, traceback), without
        their own headers.
    fragment: True where this event is itself a continuation of an earlier one: a traceback line with its own header
        but no context bracket (oslo.log's logging_exception_prefix), or a line without any header.
    source: what tells writers apart where the envelope says so (host, file), else "".
    pid: process id as text, "" where unknown.
    traceparent: the record's W3C trace context, where it has such a header.
    about_several: True where a header says that its request names several instances, which lie on other partitions.
    """

    time_s: float
    level: str
    logger: str
    message: str
    raw: str
    continuation: tuple[str, ...] = ()
    fragment: bool = False
    session_id: str | None = None
    instance_id: str | None = None
    instance_in_text: str | None = None
    request_id: str | None = None
    global_request_id: str | None = None
    project_id: str | None = None
    host: str | None = None
    service: str | None = None
    source: str = ""
    pid: str = ""
    traceparent: str | None = None
    about_several: bool = False


def as_record(record: Any) -> Record:  # noqa: ANN401 - a Kafka client's record: no types, and not ours to import
    """Return a record of aiokafka's as ours."""
    return Record(
        value=record.value,
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        timestamp_s=record.timestamp / 1000,
        key=record.key,
        headers=record.headers,
    )


def arrival_s(record: Record, now_s: float) -> float:
    """Return when a record came in: by its timestamp, if that can be one and is not ahead of `now_s`; else now.

    Where a record comes from the future, some clock is wrong: then this host's clock is the better guess.
    """
    return min(record.timestamp_s, now_s) if _KAFKA_S <= record.timestamp_s <= LATEST_S else now_s


class UndecodableError(ValueError):
    """A record that holds no log event. `reason` is for counting, `detail` says more."""

    def __init__(self, reason: DeadLetterReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
