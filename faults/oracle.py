"""What should have come out, by one offline pass over the input as it lies in Kafka; and what did.

    verdict = judge(expect(read_committed(bootstrap, topics.input), bundle, topics.input), published(topics))
    print(verdict.text())

The pass runs each partition's records in order through the project's own decoder, Sessionizer and Scorer. It is
compared with what a `read_committed` consumer (librdkafka, not the daemon's client) reads of the score, alert and
dead-letter topics. The daemon must run with `--drift off`, a score topic, `--clock-speed 1e-6` and no limit reached:
then nothing but the input decides what comes out.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson
import torch
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from loggpt_stream.lines.decode import decode
from loggpt_stream.lines.record import Record, UndecodableError
from loggpt_stream.lines.sessionizer import Sessionizer
from loggpt_stream.model.calibration import Judge
from testing.kafka_server import unique_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from loggpt_stream.lines.session import Session
    from loggpt_stream.model.bundle import Bundle
    from testing.daemon_process import Topics

TOLERANCE: Final = 1e-4
_BATCH_SESSIONS: Final = 256
_SILENCE_S: Final = 60.0
_SHOWN: Final = 5


class Identity(NamedTuple):
    """What tells a session from every other."""

    partition: int
    kind: str
    key: str
    part: int
    first_offset: int

    def __str__(self) -> str:
        part = f" part {self.part}" if self.part else ""
        return f"{self.kind} {self.key}{part}, partition {self.partition} from offset {self.first_offset}"


@dataclass(frozen=True, slots=True)
class Expected:
    """A closed session as the offline pass sees it. score, threshold: None where it is not judged."""

    identity: Identity
    last_offset: int
    lines: int
    close_reason: str
    statistics: Mapping[str, float]
    anomalous: bool
    score: float | None
    threshold: float | None

    @property
    def borderline(self) -> bool:
        """Tell whether rounding decides whether this is an alert."""
        return self.score is not None and self.threshold is not None and abs(self.score - self.threshold) <= TOLERANCE


@dataclass(slots=True)
class Expectation:
    """All that should come out. open: sessions that the input does not close. fates: of lines that are in none."""

    sessions: dict[Identity, Expected] = field(default_factory=dict)
    open: set[Identity] = field(default_factory=set)
    dead_letters: dict[tuple[int, int], str] = field(default_factory=dict)
    records: int = 0
    events: int = 0
    lines_open: int = 0
    fates: Counter[str] = field(default_factory=Counter)

    @property
    def lines(self) -> int:
        """Return how many lines are in closed sessions."""
        return sum(each.lines for each in self.sessions.values())


@dataclass(frozen=True, slots=True)
class Published:
    """What a `read_committed` reader sees of the daemons' topics."""

    scores: Sequence[Record]
    alerts: Sequence[Record]
    dead_letters: Sequence[Record]


@dataclass(slots=True)
class Verdict:
    """What is wrong, by sort; nothing if all lists are empty.

    sessions, alerts, lines: how many were expected. early: how many early alerts there were; the input alone does not
    say how many there should be.
    """

    sessions: int
    alerts: int
    early: int
    lines: int
    findings: dict[str, list[str]]

    @property
    def ok(self) -> bool:
        """Tell whether what came out is what should have."""
        return not any(self.findings.values())

    def beside(self, other: Verdict) -> Verdict:
        """Return the verdict on this and another input together."""
        sorts = [*self.findings, *(sort for sort in other.findings if sort not in self.findings)]
        findings = {sort: [*self.findings.get(sort, []), *other.findings.get(sort, [])] for sort in sorts}
        return Verdict(
            self.sessions + other.sessions,
            self.alerts + other.alerts,
            self.early + other.early,
            self.lines + other.lines,
            findings,
        )

    def text(self) -> str:
        """Return one line where all is well, else a line for each sort of finding with its first few."""
        right = f"{self.sessions:,} sessions with {self.lines:,} lines, {self.alerts:,} alerts"
        if self.ok:
            return f"exactly once: {right} and {self.early:,} early ones"
        told = [f"NOT exactly once: {right} expected"]
        for sort, found in self.findings.items():
            if found:
                told.append(f"  {sort}: {len(found)}")
                told += [f"    {each}" for each in found[:_SHOWN]]
                if len(found) > _SHOWN:
                    told.append("    …")
        return "\n".join(told)


def read_committed(bootstrap: str, topic: str, silence_s: float = _SILENCE_S) -> Iterator[Record]:
    """Yield every record of a topic that a `read_committed` consumer sees, partition by partition, in order.

    It reads to the last stable offset, which a transaction that is still open holds back. A soak's topics do not fit
    into memory: whoever wants a list makes one.

    Raises:
        TimeoutError: nothing came for `silence_s` before the end of some partition.
    """
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": unique_name("oracle"),
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "log_level": 0,
        }
    )
    try:
        for number in sorted(_partitions(consumer, topic, silence_s)):
            consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING)])
            yield from _to_the_end(consumer, f"{topic}, partition {number}", silence_s)
    finally:
        consumer.close()


def _to_the_end(consumer: Any, what: str, silence_s: float) -> Iterator[Record]:  # noqa: ANN401 - confluent_kafka is untyped
    heard_s = time.monotonic()
    while True:
        messages = consumer.consume(1000, timeout=0.5)
        if not messages and time.monotonic() - heard_s > silence_s:
            raise TimeoutError(f"{what}: the end was not reached")
        for message in messages:
            error = message.error()
            if error is None:
                yield _record(message)
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - librdkafka's name for it
                return
        if messages:
            heard_s = time.monotonic()


def _partitions(consumer: Any, topic: str, timeout_s: float) -> list[int]:  # noqa: ANN401 - confluent_kafka is untyped
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            found = consumer.list_topics(topic, timeout=5.0).topics[topic]
        except KafkaException:
            if time.monotonic() > deadline_s:
                raise
            continue
        if found.error is None and found.partitions:
            return list(found.partitions)
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{topic}: no such topic")
        time.sleep(0.2)


def _record(message: Any) -> Record:  # noqa: ANN401 - confluent_kafka is untyped
    return Record(
        value=message.value(),
        topic=message.topic(),
        partition=message.partition(),
        offset=message.offset(),
        timestamp_s=message.timestamp()[1] / 1000,
        key=message.key(),
        headers=tuple(message.headers() or ()),
    )


def expect(records: Iterable[Record], bundle: Bundle) -> Expectation:
    """Return what should come of the input, which is complete and in order partition by partition.

    `bundle` must be calibrated. No record may have a timestamp ahead of the clock: what the daemon makes of those
    depends on when it reads them.
    """
    if bundle.calibration is None:
        raise ValueError("judging needs a calibrated bundle")
    found = Expectation()
    sessionizers: dict[int, Sessionizer] = {}
    scorer, judge = bundle.scorer(torch.device("cpu")), Judge(bundle.calibration)
    closed: list[tuple[int, Session]] = []

    def score() -> None:
        scores = scorer.score([session for _, session in closed])
        for (partition, session), said in zip(closed, scores, strict=True):
            verdict = judge.judge(session.kind, said.statistics, late=session.late)
            identity = _identity(partition, session)
            found.sessions[identity] = Expected(
                identity,
                session.last_offset,
                len(session.lines),
                session.close_reason,
                said.statistics,
                verdict.anomalous,
                verdict.score,
                verdict.threshold,
            )
        closed.clear()

    for record in records:
        found.records += 1
        if record.partition not in sessionizers:
            sessionizers[record.partition] = Sessionizer(bundle.preprocessing.session_rules, bundle.masks())
        try:
            events = decode(record)
        except UndecodableError as error:
            found.dead_letters[record.partition, record.offset] = error.reason
            continue
        for event in events:
            found.events += 1
            ended = sessionizers[record.partition].add(event, record.offset, record.timestamp_s)
            closed += [(record.partition, session) for session in ended]
        if len(closed) >= _BATCH_SESSIONS:
            score()
    score()
    for partition, sessionizer in sessionizers.items():
        found.lines_open += sessionizer.open_lines
        found.fates.update(sessionizer.fates)
        found.open |= {_identity(partition, session) for session in sessionizer.flush()}
    return found


def _identity(partition: int, session: Session) -> Identity:
    return Identity(partition, session.kind, session.key, session.part, session.first_offset)


def published(topics: Topics) -> Published:
    """Return what the daemons of these topics have published so far."""
    return Published(
        list(read_committed(topics.bootstrap, topics.scores)),
        list(read_committed(topics.bootstrap, topics.alerts)),
        list(read_committed(topics.bootstrap, topics.dead_letters)),
    )


async def settled(topics: Topics, expected: Expectation, quiet_s: float = 45.0) -> None:
    """Wait until each expected session has its score and each bad record its dead letter.

    Or until nothing new has come for `quiet_s`: what is missing then is for the verdict to say.
    """
    before, since_s = -1, time.monotonic()
    while time.monotonic() - since_s < quiet_s:
        scored, dead = await asyncio.to_thread(_done, topics)
        if expected.sessions.keys() <= scored and dead >= len(expected.dead_letters):
            return
        now = len(scored) + dead
        if now != before:
            before, since_s = now, time.monotonic()
        await asyncio.sleep(1.0)


def _done(topics: Topics) -> tuple[set[Identity], int]:
    """Return the sessions that have a score, and how many dead letters there are."""
    scores = read_committed(topics.bootstrap, topics.scores)
    scored = {_of_score(orjson.loads(each.value or b"null")) for each in scores}
    return scored, sum(1 for _ in read_committed(topics.bootstrap, topics.dead_letters))


def judge(expected: Expectation, seen: Published) -> Verdict:
    """Return what is missing, twice, unexpected or different."""
    findings: dict[str, list[str]] = defaultdict(list)
    if expected.events != expected.lines + expected.lines_open + _in_no_session(expected.fates):
        findings["lines that the offline pass itself lost"].append(f"{expected.events} events, {expected}")
    ids: defaultdict[Identity, set[str]] = defaultdict(set)
    _judge_scores(expected, seen.scores, ids, findings)
    early = _judge_alerts(expected, seen.alerts, ids, findings)
    _judge_dead_letters(expected, seen.dead_letters, findings)
    several = {which: each for which, each in ids.items() if len(each) > 1}
    findings["ids of one session that differ"] += [f"{which}: {sorted(each)}" for which, each in several.items()]
    alerts = sum(each.anomalous for each in expected.sessions.values())
    return Verdict(len(expected.sessions), alerts, early, expected.lines, dict(findings))


def _judge_scores(
    expected: Expectation,
    records: Sequence[Record],
    ids: defaultdict[Identity, set[str]],
    findings: dict[str, list[str]],
) -> None:
    places: defaultdict[Identity, list[int]] = defaultdict(list)
    lines = 0
    for record in records:
        score = orjson.loads(record.value or b"null")
        identity = _of_score(score)
        places[identity].append(record.offset)
        ids[identity].add(score["id"])
        lines += score["session"]["lines"]
        known = expected.sessions.get(identity)
        if known is None:
            findings["scores unexpected"].append(f"{identity}: {_told(score['session'])}")
        else:
            _differences(known, score["session"], score["statistics"], "scores that differ", findings)
    for identity in expected.sessions:
        if identity not in places:
            findings["scores missing"].append(str(identity))
    _repeated(places, "scores twice", findings)
    if lines != expected.lines:
        findings["lines in scored sessions"].append(f"{lines} where {expected.lines} were to be")


def _judge_alerts(
    expected: Expectation,
    records: Sequence[Record],
    ids: defaultdict[Identity, set[str]],
    findings: dict[str, list[str]],
) -> int:
    """Return how many early alerts there are."""
    final: defaultdict[Identity, list[int]] = defaultdict(list)
    early: defaultdict[Identity, list[int]] = defaultdict(list)
    for record in records:
        alert = orjson.loads(record.value or b"null")
        told = alert["loggpt"]
        identity = _of_session(told["session"])
        known = expected.sessions.get(identity)
        if told["stage"] == "early":
            # Whether one is due depends on when the daemon looks; never on any session but one of these.
            early[identity].append(record.offset)
            if known is None and identity not in expected.open:
                findings["early alerts unexpected"].append(str(identity))
            continue
        final[identity].append(record.offset)
        ids[identity].add(alert["event"]["id"])
        if known is None or not (known.anomalous or known.borderline):
            findings["alerts unexpected"].append(f"{identity}: {_told(told['session'])}")
        else:
            _differences(known, told["session"], told["statistics"], "alerts that differ", findings)
    for identity, known in expected.sessions.items():
        if known.anomalous and not known.borderline and identity not in final:
            findings["alerts missing"].append(str(identity))
    _repeated(final, "alerts twice", findings)
    _repeated(early, "early alerts twice", findings)
    return sum(map(len, early.values()))


def _judge_dead_letters(expected: Expectation, records: Sequence[Record], findings: dict[str, list[str]]) -> None:
    places: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for record in records:
        headers = dict(record.headers)
        origin = int(headers["loggpt_partition"]), int(headers["loggpt_offset"])
        places[origin].append(record.offset)
        reason = headers["loggpt_reason"].decode()
        if expected.dead_letters.get(origin) != reason:
            findings["dead letters unexpected"].append(f"of partition, offset {origin}: {reason}")
    for origin in expected.dead_letters:
        if origin not in places:
            findings["dead letters missing"].append(f"of partition, offset {origin}")
    _repeated(places, "dead letters twice", findings)


def _differences(
    known: Expected,
    session: Mapping[str, Any],
    statistics: Mapping[str, float],
    sort: str,
    findings: dict[str, list[str]],
) -> None:
    told = {
        "last_offset": (known.last_offset, session["source"]["last_offset"]),
        "lines": (known.lines, session["lines"]),
        "close_reason": (known.close_reason, session["close_reason"]),
    }
    wrong = [f"{name} {seen}, not {right}" for name, (right, seen) in told.items() if right != seen]
    for name, right in known.statistics.items():
        seen = statistics.get(name)
        if seen is None or abs(seen - right) > TOLERANCE:
            wrong.append(f"{name} {seen}, not {right}")
    if wrong or statistics.keys() - known.statistics.keys():
        findings[sort].append(f"{known.identity}: {'; '.join(wrong)}")


def _repeated(places: Mapping[Any, Sequence[int]], sort: str, findings: dict[str, list[str]]) -> None:
    findings[sort] += [f"{which}: at offsets {where}" for which, where in places.items() if len(where) > 1]


def _of_score(score: Mapping[str, Any]) -> Identity:
    return _of_session(score["session"])


def _of_session(session: Mapping[str, Any]) -> Identity:
    source = session["source"]
    return Identity(source["partition"], session["kind"], session["key"], session["part"], source["first_offset"])


def _told(session: Mapping[str, Any]) -> str:
    return f"{session['lines']} lines to offset {session['source']['last_offset']}, closed by {session['close_reason']}"


def _in_no_session(fates: Mapping[str, int]) -> int:
    """Return how many events are no line of any session: dropped, or part of the event before them."""
    return sum(count for fate, count in fates.items() if fate not in ("line", "late_line"))
