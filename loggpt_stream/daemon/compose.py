"""What a transaction says to others: alerts, scores and dead letters, beside the state that is its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from loggpt_stream.kafka.transactions import Outgoing
from loggpt_stream.message import Message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from loggpt_stream.alerts.alert import AlertWriter, JudgedSession
    from loggpt_stream.daemon.partition import Partition, Rejected, Unsaved
    from loggpt_stream.daemon.raw_lines import RawLines
    from loggpt_stream.daemon.settings import DaemonSettings

# Below the broker's default message limit of 1 MiB, with room for headers; and where its limit is lower than that.
DEAD_LETTER_BYTES: Final = 900_000
_SMALL_BYTES: Final = 10_000


class Composer:
    """Makes the messages of transactions, by the topics of the settings."""

    def __init__(
        self, settings: DaemonSettings, writer: AlertWriter, raw_lines: RawLines, clock: Callable[[], float]
    ) -> None:
        """raw_lines: reads again what a restart left in the input topic."""
        self._settings = settings
        self._writer = writer
        self._raw_lines = raw_lines
        self._clock = clock

    async def compose(self, partition: Partition, unsaved: Unsaved, *, small: bool) -> list[Outgoing]:
        """Return everything that goes into the transaction, in an order that is always the same.

        small: where a broker refused a message for its size.
        """
        settings, now_s = self._settings, self._clock()
        alerts = [*unsaved.early, *(judged for judged in unsaved.judged if judged.verdict.anomalous)]
        shown = [line for judged in alerts for line in self._writer.shown_lines(judged)]
        await self._raw_lines.fill(partition.number, shown)
        outgoing = [
            Outgoing(settings.alert_topic, self._writer.alert(each, _created_s(each, now_s), small=small))
            for each in alerts
        ]
        if settings.score_topic:
            outgoing += [Outgoing(settings.score_topic, self._writer.score_record(each)) for each in unsaved.judged]
        letters = [dead_letter(each, _SMALL_BYTES if small else DEAD_LETTER_BYTES) for each in unsaved.rejected]
        outgoing += [Outgoing(settings.dead_letter_topic, letter) for letter in letters]
        outgoing += [Outgoing(settings.state_topic, each, partition.number) for each in unsaved.state]
        return outgoing

    def event_id(self, judged: JudgedSession) -> str:
        """Return the id of a session's alert."""
        return self._writer.event_id(judged)


def _created_s(judged: JudgedSession, now_s: float) -> float:
    """Return when an alert counts as created; the final one will name the time of the early one."""
    return judged.session.announced_s or now_s if judged.stage == "early" else now_s


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
