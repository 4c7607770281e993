"""What the daemon writes to Kafka: alerts, scores, dead letters. At-least-once: it returns once the broker has it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from loggpt_stream.daemon.alert import Announced, Message
from loggpt_stream.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Collection

    from loggpt_stream.daemon.alert import AlertWriter, Judged
    from loggpt_stream.daemon.metrics import Metrics
    from loggpt_stream.daemon.settings import DaemonSettings
    from loggpt_stream.lines.record import Record, UndecodableError

log = get_logger(__name__)

_MAX_BACKOFF_S: Final = 30.0
# Below the broker's default message limit of 1 MiB, with room for headers.
_DEAD_LETTER_BYTES: Final = 900_000


class Publisher:
    """Writes to the topics of the settings through one producer."""

    def __init__(self, producer: Any, settings: DaemonSettings, writer: AlertWriter, metrics: Metrics) -> None:  # noqa: ANN401 - aiokafka is untyped
        """`producer` is started; its lifetime is the caller's."""
        self._producer = producer
        self._settings = settings
        self._writer = writer
        self._metrics = metrics

    async def judged(self, sessions: Collection[Judged], now_s: float) -> None:
        """Publish the alerts among judged sessions, and every score where a score topic is set."""
        sends = []
        for each in sessions:
            verdict, session = each.verdict, each.session
            name = "anomalous" if verdict.anomalous else verdict.unjudged or "normal"
            self._metrics.sessions_scored.labels(session.kind, name).inc()
            if verdict.anomalous:
                sends.append(self._alert(each, now_s))
            if self._settings.score_topic:
                sends.append(self._send(self._settings.score_topic, self._writer.score_record(each)))
        await asyncio.gather(*sends)

    async def early(self, judged: Judged, now_s: float) -> Announced:
        """Publish the early alert of a session that is still open."""
        await self._alert(judged, now_s)
        return Announced(self._writer.event_id(judged), now_s)

    async def _alert(self, judged: Judged, now_s: float) -> None:
        session, verdict = judged.session, judged.verdict
        self._metrics.alerts.labels(session.kind, judged.stage).inc()
        log.info(
            "alert",
            stage=judged.stage,
            kind=session.kind,
            key=session.key,
            score=verdict.score,
            threshold=verdict.threshold,
            close_reason=session.close_reason or None,
            event_id=self._writer.event_id(judged),
        )
        await self._send(self._settings.alert_topic, self._writer.alert(judged, now_s))

    async def dead_letter(self, record: Record, error: UndecodableError) -> None:
        """Publish a record that holds no log event, as it came, with its origin and the reason in headers."""
        self._metrics.dead_letters.labels(error.reason).inc()
        log.warning(
            "dead_letter",
            reason=error.reason,
            detail=error.detail,
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
        )
        await self._send(self._settings.dead_letter_topic, dead_letter_message(record, error))

    async def _send(self, topic: str, message: Message) -> None:
        """Send until the broker has it, however long it is away.

        Raises `MessageSizeTooLargeError` where the topic's limit is below what the daemon writes: no use in waiting.
        """
        delay_s = 0.5
        while True:
            try:
                await self._producer.send_and_wait(
                    topic, key=message.key, value=message.value, headers=list(message.headers)
                )
            except MessageSizeTooLargeError:
                raise
            except KafkaError as error:
                log.warning("publish_retry", topic=topic, error=repr(error), retry_in_s=delay_s)
                await asyncio.sleep(delay_s)
                delay_s = min(2 * delay_s, _MAX_BACKOFF_S)
            else:
                return


def dead_letter_message(record: Record, error: UndecodableError) -> Message:
    """Return the dead letter of a record: its bytes (a giant one cut, and saying so), its headers, and ours."""
    value = record.value or b""
    headers = [
        *record.headers,
        ("loggpt_reason", error.reason.encode()),
        ("loggpt_detail", error.detail.encode(errors="replace")),
        ("loggpt_topic", record.topic.encode()),
        ("loggpt_partition", str(record.partition).encode()),
        ("loggpt_offset", str(record.offset).encode()),
        ("loggpt_timestamp_ms", str(round(record.timestamp_s * 1000)).encode()),
    ]
    if len(value) > _DEAD_LETTER_BYTES:
        headers.append(("loggpt_truncated_from_bytes", str(len(value)).encode()))
    return Message(record.key or b"", value[:_DEAD_LETTER_BYTES], tuple(headers))
