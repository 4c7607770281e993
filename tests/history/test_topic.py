"""Reading recorded logs from a real Kafka topic."""

from __future__ import annotations

import asyncio
import lzma
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

from loggpt_stream.errors import UserError
from loggpt_stream.history.corpus import Corpus, read_corpus
from loggpt_stream.history.topic import read_topic
from loggpt_stream.kafka.settings import KafkaSettings
from loggpt_stream.lines.masks import DEFAULT_RULES
from loggpt_stream.lines.rules import SessionRules
from testing.kafka_server import create_topic, produce_unreadable_header, unique_name
from testing.tiny_bundle import NOVA34

if TYPE_CHECKING:
    from pathlib import Path

    from loggpt_stream.history.files import Reading
    from testing.kafka_server import KafkaServer

RULES = SessionRules()
T0_S = 1_795_442_888.0


def instance(number: int) -> str:
    return f"{number:08}-0000-4000-8000-000000000000"


def line(second: int, number: int = 0) -> bytes:
    text = f"[instance: {instance(number)}] VM Started (second {second})"
    time = datetime.fromtimestamp(T0_S + second, UTC).strftime("%Y-%m-%d %H:%M:%S.000")
    return f"{time} 7 INFO nova.compute.manager [-] {text}".encode()


async def fill(
    kafka: KafkaServer, records: list[tuple[int, float, bytes | None]], partitions: int = 1, *, transaction: str = ""
) -> str:
    """Send (partition, timestamp, value) to a new topic; in one transaction that commits, and one that aborts."""
    topic = unique_name("history")
    await create_topic(kafka.bootstrap, topic, partitions)
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, transactional_id=transaction or None)
    async with producer:
        if transaction:
            await producer.begin_transaction()
        for partition, time_s, value in records:
            await producer.send(topic, value, key=b"k", partition=partition, timestamp_ms=round(time_s * 1000))
        await producer.flush()
        if transaction:
            await producer.commit_transaction()
            await producer.begin_transaction()
            await producer.send(topic, line(99, 9), partition=0)
            await producer.flush()
            await producer.abort_transaction()
    return topic


def read(kafka: KafkaServer, topic: str, from_s: float | None = None, to_s: float | None = None) -> Corpus:
    return read_topic(KafkaSettings(bootstrap=kafka.bootstrap), topic, RULES, DEFAULT_RULES, from_s=from_s, to_s=to_s)


def offsets(corpus: Corpus) -> list[int]:
    return sorted(line.offset for session in corpus.sessions for line in session.lines)


def test_a_topic_gives_the_sessions_of_the_file_it_was_filled_from(kafka: KafkaServer, tmp_path: Path) -> None:
    with lzma.open(NOVA34) as stream:
        lines = list(islice(stream, 1_500))
    (tmp_path / "nova.log").write_bytes(b"".join(lines))
    topic = asyncio.run(fill(kafka, [(0, T0_S, each.rstrip(b"\n")) for each in lines]))
    watched: list[int] = []

    def watch(reading: Reading) -> None:
        watched.append(reading.records)

    corpus = read_topic(KafkaSettings(bootstrap=kafka.bootstrap), topic, RULES, DEFAULT_RULES, watch=watch)
    file = read_corpus([str(tmp_path / "nova.log")], RULES, DEFAULT_RULES)
    assert len(file.sessions) > 20
    wanted = sorted((session.fingerprint(), session.texts) for session in file.sessions)
    assert sorted((session.fingerprint(), session.texts) for session in corpus.sessions) == wanted
    assert corpus.fates == file.fates
    assert corpus.reading.records == watched[-1] == 1_500


def test_only_records_between_the_two_times_are_read_the_first_included_the_last_not(kafka: KafkaServer) -> None:
    topic = asyncio.run(fill(kafka, [(0, T0_S + n, line(n)) for n in range(10)]))
    assert offsets(read(kafka, topic)) == list(range(10))
    assert offsets(read(kafka, topic, from_s=T0_S + 3)) == list(range(3, 10))
    assert offsets(read(kafka, topic, to_s=T0_S + 7)) == list(range(7))
    assert offsets(read(kafka, topic, from_s=T0_S + 3, to_s=T0_S + 7)) == [3, 4, 5, 6]
    assert offsets(read(kafka, topic, from_s=T0_S + 2.5, to_s=T0_S + 3.5)) == [3]
    assert offsets(read(kafka, topic, from_s=T0_S + 100)) == []
    assert offsets(read(kafka, topic, to_s=T0_S - 1)) == []
    assert offsets(read(kafka, topic, to_s=T0_S + 100)) == list(range(10))


def test_each_partition_has_its_own_time_and_its_own_sessions(kafka: KafkaServer) -> None:
    # Partition 1 is hours ahead and partition 2 is empty: neither closes or delays a session of partition 0.
    records = [(0, T0_S + n, line(n, 1)) for n in range(5)] + [(1, T0_S + n, line(7200 + n, 2)) for n in range(5)]
    topic = asyncio.run(fill(kafka, [*records, (1, T0_S, line(7300, 1))], partitions=3))
    corpus = read(kafka, topic)
    found = sorted((session.key, len(session.lines), session.late) for session in corpus.sessions)
    assert found == [(instance(1), 1, False), (instance(1), 5, False), (instance(2), 5, False)]
    assert [session.closed_s for session in corpus.sessions] == sorted(session.closed_s for session in corpus.sessions)


def test_what_came_after_reading_began_and_what_was_aborted_is_not_read(kafka: KafkaServer) -> None:
    records = [(0, T0_S + n, line(n)) for n in range(5)]
    topic = asyncio.run(fill(kafka, list(records), transaction=unique_name("transaction")))
    # The newest offsets are markers and an aborted record: reading ends all the same.
    corpus = read(kafka, topic)
    assert offsets(corpus) == list(range(5))
    assert corpus.reading.records == 5


def test_null_values_and_what_is_no_text_are_counted(kafka: KafkaServer) -> None:
    records = [(0, T0_S, line(0)), (0, T0_S, None), (0, T0_S, b"\x00\xff\xfe\xfd" * 40), (0, T0_S, line(1))]
    corpus = read(kafka, asyncio.run(fill(kafka, records)))
    assert corpus.reading.records == 4
    assert corpus.reading.rejected.total() == 2
    assert offsets(corpus) == [0, 3]


def test_reading_leaves_no_consumer_group_behind(kafka: KafkaServer) -> None:
    async def groups() -> list[object]:
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
        await admin.start()
        try:
            return list(await admin.list_consumer_groups())
        finally:
            await admin.close()

    topic = asyncio.run(fill(kafka, [(0, T0_S, line(0))]))
    before = asyncio.run(groups())
    assert len(read(kafka, topic).sessions) == 1
    assert asyncio.run(groups()) == before


def test_an_absent_topic_is_refused_with_the_name_most_like_it_and_not_created(kafka: KafkaServer) -> None:
    there = asyncio.run(fill(kafka, []))
    misspelt = f"{there}s"
    for _ in range(2):  # were it created, the second would find it
        with pytest.raises(UserError, match=f"no topic {misspelt} at .*; there are: {there}[,.]"):
            read(kafka, misspelt)


def test_a_header_name_that_is_no_text_is_refused_with_its_place(kafka: KafkaServer) -> None:
    topic = asyncio.run(fill(kafka, [(0, T0_S, line(0))]))
    asyncio.run(produce_unreadable_header(kafka.bootstrap, topic, line(1)))
    place = r"in partition 0 at offset 1\. .*before offset 2 with kafka-delete-records\.sh"
    with pytest.raises(UserError, match=rf"topic {topic} .*not UTF-8.*{place}"):
        read(kafka, topic)


def test_an_absent_broker_is_refused_with_the_setting_to_check() -> None:
    with pytest.raises(UserError, match=r"topic t cannot be read: 127\.0\.0\.1:1: nobody listens.* kafka\.bootstrap"):
        read_topic(KafkaSettings(bootstrap="127.0.0.1:1"), "t", RULES, DEFAULT_RULES)
