from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaError, ProducerFenced

from testing.kafka_server import KafkaServer, create_topic, free_ports, missing_programs, unique_name

if TYPE_CHECKING:
    from collections.abc import Iterable

REPO = Path(__file__).parent.parent.parent


async def read(bootstrap: str, topic: str, count: int, isolation_level: str = "read_committed") -> list[bytes | None]:
    """Return the first `count` values of a topic, or fewer if no more come within five seconds."""
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest", isolation_level=isolation_level
    )
    values: list[bytes | None] = []
    deadline = time.monotonic() + 5.0
    async with consumer:
        while len(values) < count and time.monotonic() < deadline:
            for records in (await consumer.getmany(timeout_ms=200)).values():
                values += [record.value for record in records]
    return values


async def send(producer: AIOKafkaProducer, topic: str, values: Iterable[bytes]) -> None:
    for value in values:
        await producer.send_and_wait(topic, value)


def test_test_processes_side_by_side_choose_ports_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = []
    for worker in ("gw0", "gw1", "gw15"):
        monkeypatch.setenv("PYTEST_XDIST_WORKER", worker)
        chosen.append(set(free_ports(300)))
    assert len(set.union(*chosen)) == 3 * 300
    assert all(20_000 <= port < 32_000 for port in set.union(*chosen))


async def test_what_is_produced_is_read_back_in_order(kafka: KafkaServer) -> None:
    topic = unique_name("echo")
    await create_topic(kafka.bootstrap, topic)
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, compression_type="zstd") as producer:
        await send(producer, topic, [b"one", b"two", b"three"])
    assert await read(kafka.bootstrap, topic, 3) == [b"one", b"two", b"three"]


async def test_a_topic_has_the_partitions_and_settings_asked_for(kafka: KafkaServer) -> None:
    topic = unique_name("big")
    await create_topic(kafka.bootstrap, topic, 4, {"max.message.bytes": "3000000"})
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, max_request_size=4_000_000) as producer:
        assert await producer.partitions_for(topic) == {0, 1, 2, 3}
        await producer.send_and_wait(topic, os.urandom(2_000_000))


async def test_creating_a_topic_twice_is_an_error(kafka: KafkaServer) -> None:
    topic = unique_name("twice")
    await create_topic(kafka.bootstrap, topic)
    with pytest.raises(RuntimeError, match=f"topic {topic} could not be created"):
        await create_topic(kafka.bootstrap, topic)


async def test_topics_are_not_created_by_accident(kafka: KafkaServer) -> None:
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, request_timeout_ms=1500) as producer:
        with pytest.raises(KafkaError):
            await producer.send_and_wait(unique_name("typo"), b"lost")


async def test_a_committed_reader_never_sees_an_aborted_record(kafka: KafkaServer) -> None:
    topic, identity = unique_name("aborted"), unique_name("writer")
    await create_topic(kafka.bootstrap, topic)
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, transactional_id=identity) as producer:
        await producer.begin_transaction()
        await send(producer, topic, [b"taken back"])
        await producer.abort_transaction()
        async with producer.transaction():
            await send(producer, topic, [b"kept"])
    assert await read(kafka.bootstrap, topic, 1) == [b"kept"]
    assert await read(kafka.bootstrap, topic, 2, "read_uncommitted") == [b"taken back", b"kept"]


async def test_a_second_producer_with_the_same_identity_fences_the_first(kafka: KafkaServer) -> None:
    topic, identity = unique_name("fenced"), unique_name("writer")
    await create_topic(kafka.bootstrap, topic)
    first = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, transactional_id=identity)
    second = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, transactional_id=identity)
    await first.start()
    await first.begin_transaction()
    await send(first, topic, [b"from the first"])
    await second.start()
    with pytest.raises(ProducerFenced):
        await first.commit_transaction()
    async with second.transaction():
        await send(second, topic, [b"from the second"])
    await second.stop()
    await first.stop()
    assert await read(kafka.bootstrap, topic, 1) == [b"from the second"]
    assert b"from the first" in await read(kafka.bootstrap, topic, 2, "read_uncommitted")


@pytest.mark.slow
@pytest.mark.usefixtures("kafka_programs")
async def test_records_survive_a_killed_broker_and_its_return(tmp_path: Path) -> None:
    with KafkaServer(tmp_path / "kafka") as server:
        await create_topic(server.bootstrap, "kept")
        async with AIOKafkaProducer(bootstrap_servers=server.bootstrap) as producer:
            await send(producer, "kept", [b"before"])
        server.kill_broker(0)
        server.start_broker(0)
        async with AIOKafkaProducer(bootstrap_servers=server.bootstrap) as producer:
            await send(producer, "kept", [b"after"])
        assert await read(server.bootstrap, "kept", 2) == [b"before", b"after"]


@pytest.mark.slow
@pytest.mark.usefixtures("kafka_programs")
async def test_three_brokers_serve_on_with_one_stopped(tmp_path: Path) -> None:
    with KafkaServer(tmp_path / "kafka", brokers=3) as server:
        await create_topic(server.bootstrap, "spread", partitions=3)
        server.stop_broker(1)
        async with AIOKafkaProducer(bootstrap_servers=server.bootstrap, acks="all") as producer:
            await send(producer, "spread", [b"one", b"two", b"three"])
        assert sorted(await read(server.bootstrap, "spread", 3)) == [b"one", b"three", b"two"]  # type: ignore[type-var]
        server.start_broker(1)


@pytest.mark.slow
@pytest.mark.usefixtures("kafka_programs")
def test_no_broker_outlives_a_killed_test_run(tmp_path: Path) -> None:
    script = (
        "import pathlib, sys, time\n"
        "from testing.kafka_server import KafkaServer\n"
        "with KafkaServer(pathlib.Path(sys.argv[1])):\n"
        "    print('up', flush=True)\n"
        "    time.sleep(300)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "kafka")]
    with subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "up\n"
        children = psutil.Process(run.pid).children(recursive=True)
        assert [child for child in children if child.name() == "java"]
        run.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs(children, timeout=10)
    for child in alive:
        child.kill()
    assert alive == []


def test_a_machine_without_java_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("LOGGPT_TEST_CACHE", str(tmp_path))
    told = missing_programs()
    assert "openjdk-17-jre-headless" in told
    assert "maven" in told


@pytest.mark.parametrize(("ci", "outcome"), [("", "1 skipped"), ("false", "1 skipped"), ("true", "1 error")])
def test_what_needs_kafka_is_skipped_by_name_without_java_and_fails_in_ci(
    ci: str, outcome: str, tmp_path: Path
) -> None:
    env = os.environ | {
        "PATH": str(tmp_path),
        "LOGGPT_TEST_CACHE": str(tmp_path),
        "CI": ci,
        "COVERAGE_PROCESS_START": "",
    }
    test = "tests/testing/test_kafka_server.py::test_what_is_produced_is_read_back_in_order"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "--no-cov", test]
    told = subprocess.run(command, cwd=REPO, env=env, capture_output=True, text=True, check=False).stdout
    assert outcome in told
    assert "test_what_is_produced_is_read_back_in_order" in told
    assert "install openjdk-17-jre-headless (or newer) and maven" in told
