"""A Kafka topic between two times → closed sessions, without a consumer group: no daemon is disturbed."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from loggpt_stream.errors import UserError
from loggpt_stream.history.corpus import Corpus
from loggpt_stream.history.files import Reading
from loggpt_stream.kafka.connection import explain, why_not
from loggpt_stream.kafka.unreadable import explain_unreadable
from loggpt_stream.lines.decode import decode
from loggpt_stream.lines.masks import Masks
from loggpt_stream.lines.record import Record, UndecodableError, arrival_s
from loggpt_stream.lines.sessionizer import Sessionizer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from loggpt_stream.kafka.settings import KafkaSettings
    from loggpt_stream.lines.masks import MaskRule
    from loggpt_stream.lines.rules import SessionRules
    from loggpt_stream.lines.session import Session
    from loggpt_stream.lines.shapes import Shape

_POLL_MS: Final = 500
_FETCH_WAIT_MS: Final = 50  # all there is to read is there already: waiting for more gains nothing
_SILENCE_S: Final = 60.0
_ASK_WITHIN_S: Final = 10.0

_Offsets = dict[TopicPartition, int]


def read_topic(
    kafka: KafkaSettings,
    topic: str,
    rules: SessionRules,
    mask_rules: tuple[MaskRule, ...],
    *,
    from_s: float | None = None,
    to_s: float | None = None,
    shape: Shape | None = None,
    watch: Callable[[Reading], None] = lambda _: None,
) -> Corpus:
    """Read records with `from_s` <= Kafka's timestamp < `to_s` (epoch seconds), of all partitions, to closed sessions.

    None means from the oldest record on, and up to the newest one that is there now. Sessions are gathered per
    partition, as the daemon does, and returned in order of their close. `watch` is called after every batch.

    Raises `UserError` where the broker or the topic is not there, the broker stops answering, a transaction stays open,
    or a record cannot be read.
    """
    gathered = _Gathered(rules, mask_rules, shape)
    asyncio.run(_gather(gathered, kafka, Span(topic, from_s, to_s), watch))
    return gathered.corpus()


@dataclass(frozen=True, slots=True)
class Span:
    """Which records: those of a topic with from_s <= timestamp < to_s (epoch seconds; None: no bound)."""

    topic: str
    from_s: float | None = None
    to_s: float | None = None


@dataclass(slots=True)
class _Gathered:
    """Sessions of all partitions so far."""

    rules: SessionRules
    mask_rules: tuple[MaskRule, ...]
    shape: Shape | None
    reading: Reading = field(default_factory=Reading)
    sessionizers: dict[int, Sessionizer] = field(default_factory=dict)
    closed: dict[int, list[Session]] = field(default_factory=dict)

    def add(self, record: Record) -> None:
        """Take the next record of its partition."""
        self.reading.records += 1
        self.reading.bytes += len(record.value or b"")
        if record.partition not in self.sessionizers:
            self.sessionizers[record.partition] = Sessionizer(self.rules, Masks(self.mask_rules))
            self.closed[record.partition] = []
        try:
            events = decode(record, pin=self.shape)
        except UndecodableError as error:
            self.reading.rejected[error.reason] += 1
            return
        for event in events:
            closed = self.sessionizers[record.partition].add(event, record.offset, arrival_s(record, time.time()))
            self.closed[record.partition] += closed

    def corpus(self) -> Corpus:
        """Close what is open and return all of it. In which order partitions answered was chance: it does not show."""
        corpus = Corpus(reading=self.reading)
        for partition, sessionizer in sorted(self.sessionizers.items()):
            corpus.sessions += [*self.closed[partition], *sessionizer.flush()]
            corpus.fates.update(sessionizer.fates)
        corpus.sessions.sort(key=lambda session: session.closed_s)
        return corpus


async def _gather(gathered: _Gathered, kafka: KafkaSettings, span: Span, watch: Callable[[Reading], None]) -> None:
    async for records in record_batches(kafka, span):
        for record in records:
            gathered.add(record)
        watch(gathered.reading)


async def record_batches(kafka: KafkaSettings, span: Span) -> AsyncIterator[list[Record]]:
    """Yield the committed records of `span`, each list from one partition, in order.

    Transactions that are open now are waited for: all is read that was committed before the call. Raises `UserError`
    where the broker or the topic is not there, the broker stops answering, a transaction stays open, or a record cannot
    be read.
    """
    try:
        async for records in _batches(kafka, span):
            yield records
    except KafkaError as error:
        why = await why_not(kafka) or f"{kafka.bootstrap}: {explain(error)}"
        raise UserError(f"topic {span.topic} cannot be read: {why}.") from error


async def _batches(kafka: KafkaSettings, span: Span) -> AsyncIterator[list[Record]]:
    assigned = [TopicPartition(span.topic, partition) for partition in await _partitions(kafka, span.topic)]
    starts, stops = await _bounds(kafka, span, assigned)
    unread = {partition for partition in assigned if starts[partition] < stops[partition]}
    if not unread:
        return
    consumer = AIOKafkaConsumer(
        **kafka.client_options(),
        group_id=None,
        enable_auto_commit=False,
        isolation_level="read_committed",
        # What retention removes while it is read is an error: a shorter history is never taken for the whole.
        auto_offset_reset="none",
        fetch_max_wait_ms=_FETCH_WAIT_MS,
    )
    await consumer.start()
    try:
        consumer.assign(assigned)
        consumer.pause(*(set(assigned) - unread))
        for partition in assigned:
            consumer.seek(partition, starts[partition])
        heard_s = time.monotonic()
        while unread:
            try:
                found = await consumer.getmany(timeout_ms=_POLL_MS)
            except UnicodeDecodeError as error:
                positions = {each: await consumer.position(each) for each in unread}
                raise UserError(await explain_unreadable(consumer, span.topic, positions, error)) from error
            for partition, messages in found.items():
                stop = stops[partition]
                yield [_record(message) for message in messages if message.offset < stop]
            # By position, not by the last record: markers of transactions take offsets too.
            done = {partition for partition in unread if await consumer.position(partition) >= stops[partition]}
            if done:
                consumer.pause(*done)
                unread -= done
            if found or done:
                heard_s = time.monotonic()
            elif time.monotonic() - heard_s > _SILENCE_S:
                raise UserError(await _why_silent(consumer, kafka, {each: stops[each] for each in unread}))
    finally:
        await consumer.stop()


async def _bounds(kafka: KafkaSettings, span: Span, partitions: list[TopicPartition]) -> tuple[_Offsets, _Offsets]:
    """Return where `span` begins in each partition, and where it ends.

    It is asked as by a reader of everything. To one of what is committed, a partition ends where its oldest open
    transaction begins, and what was committed behind that seems not to be there.
    """
    async with AIOKafkaConsumer(**kafka.client_options(), group_id=None, enable_auto_commit=False) as asking:
        ends = await asking.end_offsets(partitions)
        starts = await asking.beginning_offsets(partitions)
        if span.from_s is not None:
            starts = {**ends, **await _offsets_at(asking, partitions, span.from_s)}
        stops = ends if span.to_s is None else {**ends, **await _offsets_at(asking, partitions, span.to_s)}
    return starts, stops


async def _why_silent(consumer: AIOKafkaConsumer, kafka: KafkaSettings, unread: _Offsets) -> str:
    """Return why a reader of what is committed gets nothing more, before it came to the ends of `unread`."""
    topic = next(iter(unread)).topic
    stalled = f"Kafka at {kafka.bootstrap} gave nothing more of topic {topic} for {_SILENCE_S:.0f} s"
    try:
        async with asyncio.timeout(_ASK_WITHIN_S):
            readable = await consumer.end_offsets(list(unread))
    except (KafkaError, TimeoutError):
        readable = {}
    held = sorted(each.partition for each, end in readable.items() if end < unread[each])
    if held:
        return (
            f"{stalled}: on partition {', '.join(map(str, held))} a transaction is open, and what lies behind it "
            "cannot be read yet. Try again: its writer ends it, or the broker does when it times out (within minutes)."
        )
    return f"{stalled}, with {len(unread)} partitions unread: check the broker, then run the command again."


async def _partitions(kafka: KafkaSettings, topic: str) -> list[int]:
    admin = AIOKafkaAdminClient(**kafka.client_options())
    await admin.start()
    try:
        # Listed before it is described: a broker may create a topic that it is asked about.
        topics = await admin.list_topics()
        if topic not in topics:
            # Those most like it first: a cluster may hold thousands, and the mistake is mostly one of spelling.
            others = [name for name in topics if not name.startswith("__")]
            others.sort(key=lambda name: (-SequenceMatcher(None, topic, name).ratio(), name))
            raise UserError(
                f"no topic {topic} at {kafka.bootstrap}, or this user may not describe it (for dead letters: "
                f"deploy/kafka/acls.sh dead-letters); there are: {', '.join(others[:20]) or 'none'}."
            )
        (described,) = await admin.describe_topics([topic])
        return sorted(part["partition"] for part in described["partitions"])
    finally:
        await admin.close()


async def _offsets_at(
    consumer: AIOKafkaConsumer, partitions: list[TopicPartition], time_s: float
) -> dict[TopicPartition, int]:
    """Return the first offset at or after `time_s`; partitions that have none are left out."""
    found = await consumer.offsets_for_times(dict.fromkeys(partitions, math.ceil(time_s * 1000)))
    return {partition: at.offset for partition, at in found.items() if at is not None}


def _record(message: Any) -> Record:  # noqa: ANN401 - aiokafka has no types
    return Record(
        message.value,
        message.topic,
        message.partition,
        message.offset,
        message.timestamp / 1000,
        message.key,
        tuple(message.headers),
    )
