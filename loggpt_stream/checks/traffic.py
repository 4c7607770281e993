"""What the doctor finds in the newest records of the input: is it keyed, is it understood, what do clocks say."""

from __future__ import annotations

import asyncio
import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, TopicAuthorizationFailedError

from loggpt_stream.errors import UserError
from loggpt_stream.kafka.connection import explain
from loggpt_stream.kafka.finding import Finding, Level
from loggpt_stream.kafka.topics import ANSWER_WITHIN_S
from loggpt_stream.kafka.unreadable import explain_unreadable
from loggpt_stream.lines.decode import decode
from loggpt_stream.lines.masks import Masks
from loggpt_stream.lines.names import DeadLetterReason, Fate, SessionKind
from loggpt_stream.lines.record import Record, UndecodableError, arrival_s
from loggpt_stream.lines.rules import SessionRules
from loggpt_stream.lines.sessionizer import Sessionizer
from loggpt_stream.lines.shapes import Shape, known_shape

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from loggpt_stream.daemon.settings import DaemonPlacement
    from loggpt_stream.kafka.topics import Topic

SAMPLED: Final = 300  # newest records of each partition
_MAX_SPREAD_SHARE: Final = 0.01
_MAX_UNKEYED_SHARE: Final = 0.5
_MAX_UNDECODABLE_SHARE: Final = 0.01
_MAX_PARTITION_SHARE: Final = 0.9
_ENOUGH_RECORDS: Final = 100
_MAX_AHEAD_S: Final = 60.0


@dataclass(slots=True)
class Sample:
    """What the newest records of each partition hold.

    held: records in each partition, sampled or not. newest_record_s, newest_line_s: epoch seconds.
    partitions_of: of each session (kind, key), the partitions with lines of it. lines_of: how many lines it has.
    """

    held: Mapping[int, int]
    records: int = 0
    lines: int = 0
    unkeyed: int = 0
    newest_record_s: float = 0.0
    newest_line_s: float = 0.0
    shapes: Counter[str] = field(default_factory=Counter)
    undecodable: Counter[str] = field(default_factory=Counter)
    partitions_of: defaultdict[tuple[str, str], set[int]] = field(default_factory=lambda: defaultdict(set))
    lines_of: Counter[tuple[str, str]] = field(default_factory=Counter)


async def check_traffic(
    settings: DaemonPlacement, source: Topic, rules: SessionRules | None, now_s: float
) -> list[Finding]:
    """Return the findings on the newest records of the input topic `source`. Nothing is committed.

    `rules` of the bundle; None for the default ones. `now_s` is this machine's time (epoch seconds).
    """
    remedy = f"kafka-acls.sh: allow Read and Describe on topic {settings.input_topic}"
    try:
        held, records = await _newest(settings, source)
    except TopicAuthorizationFailedError:
        return [Finding("input", Level.FAILURE, f"{settings.input_topic} may not be read", remedy)]
    except UserError as error:
        return [Finding("input", Level.FAILURE, str(error))]
    except (KafkaError, TimeoutError) as error:
        found = f"{settings.input_topic} could not be read: {explain(error)}"
        return [Finding("input", Level.FAILURE, found, "see the broker's log; then run the doctor again")]
    sample = sampled(records, held, rules or SessionRules(), known_shape(settings.shape))
    if not sample.records:
        found = f"{settings.input_topic} is empty: keys, shapes and clocks could not be looked at"
        return [Finding("input", Level.WARNING, found, "run the doctor again once lines come in")]
    return [*judge_keys(sample), *judge_shapes(sample, known_shape(settings.shape)), judge_clocks(sample, now_s)]


async def _newest(settings: DaemonPlacement, source: Topic) -> tuple[dict[int, int], list[Record]]:
    """Return how many records each partition holds, and the newest of each. Raises `UserError` where one is unreadable.

    Raises `KafkaError` or `TimeoutError` too.
    """
    consumer = AIOKafkaConsumer(
        **settings.kafka.client_options(),
        group_id=None,
        enable_auto_commit=False,
        isolation_level="read_committed",
        # What retention removes meanwhile is no matter: any records will do.
        auto_offset_reset="earliest",
    )
    await consumer.start()
    try:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            partitions = [TopicPartition(source.name, number) for number in range(source.partitions)]
            consumer.assign(partitions)
            starts = await consumer.beginning_offsets(partitions)
            ends = await consumer.end_offsets(partitions)
            for each in partitions:
                consumer.seek(each, max(starts[each], ends[each] - SAMPLED))
            records: list[Record] = []
            unread = {each for each in partitions if starts[each] < ends[each]}
            while unread:
                try:
                    found = await consumer.getmany(*unread, timeout_ms=500)
                except UnicodeDecodeError as error:
                    positions = {each: await consumer.position(each) for each in unread}
                    raise UserError(await explain_unreadable(consumer, source.name, positions, error)) from error
                for messages in found.values():
                    records += map(_record, messages)
                unread = {each for each in unread if await consumer.position(each) < ends[each]}
    finally:
        await consumer.stop()
    return {each.partition: ends[each] - starts[each] for each in partitions}, records


def sampled(records: Iterable[Record], held: Mapping[int, int], rules: SessionRules, shape: Shape | None) -> Sample:
    """Return what these records hold, by the decoder and the session keys of the daemon."""
    sample = Sample(held)
    gatherers: dict[int, Sessionizer] = {}
    for record in records:
        sample.records += 1
        sample.newest_record_s = max(sample.newest_record_s, record.timestamp_s)
        try:
            events = decode(record, pin=shape)
        except UndecodableError as error:
            sample.undecodable[error.reason] += 1
            continue
        sample.shapes[_shape_of(record)] += 1
        gatherer = gatherers.setdefault(record.partition, Sessionizer(rules, Masks(())))
        for event in events:
            sample.lines += 1
            if event.logger:  # what has no header has its record's time
                sample.newest_line_s = max(sample.newest_line_s, event.time_s)
            _note(sample, record.partition, gatherer.add(event, record.offset, arrival_s(record, math.inf)))
    for partition, gatherer in gatherers.items():
        _note(sample, partition, gatherer.flush())
        sample.unkeyed += gatherer.fates[Fate.UNKEYED]
    return sample


def _note(sample: Sample, partition: int, sessions: Iterable[Any]) -> None:
    for session in sessions:
        # A window gathers what a host and service write without key, on whichever partition.
        if session.kind == SessionKind.WINDOW:
            sample.unkeyed += len(session.lines)
            continue
        sample.partitions_of[session.kind, session.key].add(partition)
        sample.lines_of[session.kind, session.key] += len(session.lines)


def _shape_of(record: Record) -> str:
    for shape in Shape:
        try:
            decode(record, pin=shape)
        except UndecodableError:
            continue
        return shape
    return "mixed"


def judge_keys(sample: Sample) -> Iterator[Finding]:
    """Yield the findings on how lines are spread over partitions, and how many belong to no session."""
    several = [key for key, lines in sample.lines_of.items() if lines > 1]
    spread = [key for key in several if len(sample.partitions_of[key]) > 1]
    if len(sample.held) == 1:
        yield Finding("input keys", Level.OK, "one partition: every session is whole, whatever the key")
    elif spread:
        kind, key = spread[0]
        places = ", ".join(str(number) for number in sorted(sample.partitions_of[kind, key]))
        share = len(spread) / len(several)
        yield Finding(
            "input keys",
            Level.FAILURE if share > _MAX_SPREAD_SHARE else Level.WARNING,
            f"{len(spread)} of {len(several)} sessions have lines on several partitions ({kind} {key}: on "
            f"{places}): each part would be scored as a session of its own",
            "key the records by session where they are written, or let loggpt-stream route do it",
        )
    elif several:
        found = f"{len(several)} sessions looked at, each on one of {len(sample.held)} partitions"
        yield Finding("input keys", Level.OK, found)
    else:
        yield Finding(
            "input keys",
            Level.WARNING,
            "no session has two lines in the sample, so nothing can be said of keys",
            "run the doctor again when more lines have come in",
        )
    held = sum(sample.held.values())
    number, most = max(sample.held.items(), key=lambda each: each[1])
    if len(sample.held) > 1 and held >= _ENOUGH_RECORDS and most > _MAX_PARTITION_SHARE * held:
        yield Finding(
            "input balance",
            Level.WARNING,
            f"partition {number} holds {most / held:.0%} of {held:,} records: one daemon would do nearly all the work",
            "key by session rather than by host or cloud; loggpt-stream route does that",
        )
    share = sample.unkeyed / sample.lines if sample.lines else 0.0
    found = f"{share:.0%} of {sample.lines:,} lines have no session key"
    if share > _MAX_UNKEYED_SHARE:
        yield Finding(
            "unkeyed lines",
            Level.WARNING,
            f"{found}: they are counted and not scored, or gathered by host and service, as the bundle says",
            "train with --sessions.unkeyed window if they matter; or are these lines of OpenStack at all?",
        )
    else:
        yield Finding("unkeyed lines", Level.OK, found)


def judge_shapes(sample: Sample, pinned: Shape | None) -> Iterator[Finding]:
    """Yield the finding on what the records look like, and how many hold no log event."""
    seen = ", ".join(f"{shape} {count / sample.records:.0%}" for shape, count in sample.shapes.most_common())
    bad = sample.undecodable.total()
    if not bad:
        yield Finding("input shapes", Level.OK, f"{seen} of {sample.records:,} records")
        return
    reasons = ", ".join(f"{reason} {count}" for reason, count in sample.undecodable.most_common())
    found = (
        f"{bad / sample.records:.1%} of {sample.records:,} records hold no log event ({reasons}); {seen or 'none does'}"
    )
    remedy = "loggpt-stream dead-letters explain says what each reason means, once the daemon has met them"
    if pinned and sample.undecodable[DeadLetterReason.OTHER_SHAPE]:
        remedy = f"shape is pinned to {pinned}: leave it out, and each record is recognised by itself"
    level = Level.WARNING if sample.shapes else Level.FAILURE
    yield Finding("input shapes", level if bad > _MAX_UNDECODABLE_SHARE * sample.records else Level.OK, found, remedy)


def judge_clocks(sample: Sample, now_s: float) -> Finding:
    """Return the finding on records and lines from the future."""
    ahead_s = {"record": sample.newest_record_s - now_s, "line": sample.newest_line_s - now_s}
    late = {what: seconds for what, seconds in ahead_s.items() if seconds > _MAX_AHEAD_S}
    if not late:
        return Finding("clocks", Level.OK, "no record or line is from the future")
    told = " and ".join(f"the newest {what} is {seconds:,.0f} s ahead" for what, seconds in late.items())
    return Finding(
        "clocks",
        Level.WARNING,
        f"{told} of this machine's clock: such times are cut to the arrival, and sessions close early or late",
        "run NTP (chrony) on writers, brokers and here; let services log in UTC (a time without zone counts as UTC)",
    )


def _record(message: Any) -> Record:  # noqa: ANN401 - aiokafka is untyped
    return Record(
        message.value, message.topic, message.partition, message.offset, message.timestamp / 1000, message.key,
        tuple(message.headers),
    )  # fmt: skip
