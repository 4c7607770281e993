"""What a transaction says to others: alerts, scores and dead letters; counted and logged once it is committed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from aiokafka.errors import KafkaError

from loggpt_stream.kafka.transactions import Outgoing
from loggpt_stream.lines.decode import decode
from loggpt_stream.lines.record import UndecodableError, as_record
from loggpt_stream.lines.session import extended
from loggpt_stream.lines.sessionizer import masked_head, raw_text
from loggpt_stream.logs import get_logger
from loggpt_stream.message import Message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from loggpt_stream.alerts.alert import AlertWriter, JudgedSession
    from loggpt_stream.daemon.metrics import Metrics
    from loggpt_stream.daemon.partition import Partition, Rejected, SessionCommit
    from loggpt_stream.daemon.settings import DaemonSettings
    from loggpt_stream.kafka.record_reader import RecordReader
    from loggpt_stream.lines.gathering import Gathering
    from loggpt_stream.lines.record import Event
    from loggpt_stream.lines.session import Line

log = get_logger(__name__)

# Below the broker's default message limit of 1 MiB, with room for headers; and where its limit is lower than that.
DEAD_LETTER_BYTES: Final = 900_000
_SMALL_BYTES: Final = 10_000
# Of a transaction's time limit, what reading raw lines again may take.
_RAW_LINES_SHARE: Final = 0.25


class SessionPublisher:
    """Makes the messages of the daemon's transactions, by the topics of the settings."""

    def __init__(  # noqa: PLR0917 - each is another part of the daemon
        self,
        settings: DaemonSettings,
        writer: AlertWriter,
        gathering: Gathering,
        records: RecordReader,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        """gathering, records: to read raw lines again that a restart left in the input topic."""
        self._settings = settings
        self._writer = writer
        within_s = _RAW_LINES_SHARE * settings.transaction_timeout_s  # a transaction has to wait for it
        self._raw_lines = RawLines(records, gathering, within_s=within_s)
        self._metrics = metrics
        self._clock = clock

    async def compose(self, partition: Partition, pending: SessionCommit, *, small: bool) -> list[Outgoing]:
        """Return everything that goes into the transaction beside the state, in an order that is always the same.

        small: where a broker refused a message for its size.
        """
        settings, now_s = self._settings, self._clock()
        shown = [line for alert in pending.alerts for line in self._writer.shown_lines(alert)]
        await self._raw_lines.fill(partition.number, shown)
        outgoing = [
            Outgoing(settings.alert_topic, self._writer.alert(alert, _created_s(alert, now_s), small=small))
            for alert in pending.alerts
        ]
        if settings.score_topic:
            outgoing += [Outgoing(settings.score_topic, self._writer.score_record(each)) for each in pending.judged]
        most_bytes = _SMALL_BYTES if small else DEAD_LETTER_BYTES
        outgoing += [Outgoing(settings.dead_letter_topic, dead_letter(each, most_bytes)) for each in pending.rejected]
        return outgoing

    def committed(self, pending: SessionCommit) -> None:
        """Count and log what a transaction published."""
        now_s = self._clock()
        for judged in pending.judged:
            self._metrics.sessions_scored.labels(judged.session.kind, judged.verdict.outcome).inc()
            self._metrics.publish_seconds.observe(now_s - judged.closed_at_s)
        for alert in pending.alerts:
            session, verdict = alert.session, alert.verdict
            self._metrics.alerts.labels(session.kind, alert.stage).inc()
            log.info(
                "alert",
                stage=alert.stage,
                kind=session.kind,
                key=session.key,
                score=verdict.score,
                threshold=verdict.threshold,
                close_reason=session.close_reason or None,
                event_id=self._writer.event_id(alert),
            )
        for rejected in pending.rejected:
            record, error = rejected.record, rejected.error
            self._metrics.dead_letters.labels(error.reason).inc()
            place = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
            log.warning("dead_letter", reason=error.reason, detail=error.detail, **place)


class RawLines:
    """Gives lines their raw text again: a restart left it in the input topic, from where it is read by offset."""

    def __init__(self, records: RecordReader, gathering: Gathering, *, within_s: float) -> None:
        """within_s: for all lines of one transaction; what was not found by then is shown as the model saw it."""
        self._records = records
        self._gathering = gathering
        self._within_s = within_s

    async def fill(self, partition: int, lines: Iterable[Line]) -> None:
        """Give the lines of a partition their raw text where they have none, as far as the topic still has them."""
        missing = [line for line in lines if not line.raw]
        if not missing:
            return
        offsets = sorted({at for line in missing for at in (line.offset, *(rest for rest, _ in line.rest or ()))})
        found: dict[int, Any] = {}
        try:
            # Others may be before us: to wait for them counts.
            async with asyncio.timeout(self._within_s):
                await self._records.read(partition, offsets, found)
        except (KafkaError, OSError, TimeoutError, UnicodeDecodeError) as error:
            log.warning("raw_lines_not_read", partition=partition, lines=len(missing), error=repr(error))
        events = {offset: self._events(record) for offset, record in found.items()}
        for line in missing:
            line.raw = self._raw(line, events)

    def _events(self, record: Any) -> Sequence[Event]:  # noqa: ANN401 - aiokafka is untyped
        try:
            return decode(as_record(record), pin=self._gathering.shape)
        except UndecodableError:
            return ()

    def _raw(self, line: Line, events: Mapping[int, Sequence[Event]]) -> str:
        """Return a line's raw text, or "" where what stands there is not that line (the topic was made anew)."""
        event = _at(events, line.offset, line.index)
        if event is None or masked_head(event, self._gathering.masks) != line.head:
            return ""
        raw = raw_text(event)
        for offset, index in line.rest or ():
            more = _at(events, offset, index)
            if more is not None:
                raw = extended(raw, more.message)
        return raw


def _at(events: Mapping[int, Sequence[Event]], offset: int, index: int) -> Event | None:
    found = events.get(offset, ())
    return found[index] if index < len(found) else None


def _created_s(alert: JudgedSession, now_s: float) -> float:
    """Return when an alert counts as created; the final one will name the time of the early one."""
    return alert.session.announced_s or now_s if alert.stage == "early" else now_s


def dead_letter(rejected: Rejected, most_bytes: int) -> Message:
    """Return the dead letter of a record: its bytes, its headers, and ours.

    Of a giant the first `most_bytes`, and it says so: what no topic takes would be read and refused again for ever.
    """
    record, error = rejected.record, rejected.error
    key, value, headers = record.key or b"", record.value or b"", record.headers
    if _size(key, headers) > most_bytes // 2:
        key, headers = key[: most_bytes // 4], ()
    whole = len(value)
    value = value[: most_bytes - _size(key, headers)]
    ours = [
        ("loggpt_reason", error.reason.encode()),
        ("loggpt_detail", error.detail.encode(errors="replace")),
        ("loggpt_topic", record.topic.encode()),
        ("loggpt_partition", str(record.partition).encode()),
        ("loggpt_offset", str(record.offset).encode()),
        ("loggpt_timestamp_ms", str(record.timestamp_ms).encode()),
    ]
    if len(value) < whole or len(headers) < len(record.headers) or len(key) < len(record.key or b""):
        ours.append(("loggpt_truncated_from_bytes", str(whole).encode()))
    return Message(key, value, (*headers, *ours))


def _size(key: bytes, headers: Iterable[tuple[str, bytes]]) -> int:
    return len(key) + sum(len(name) + len(value or b"") for name, value in headers)
