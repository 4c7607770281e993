"""What bounds the daemon: hung scorers and fetches, messages too large, memory, and the time that an end may take."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import KafkaError

from loggpt_stream.kafka.transactions import TransactionalLog
from testing.daemon_process import DaemonProcess, Topics, produce, read_all, with_fault
from testing.kafka_server import create_topic, produce_unreadable_header, unique_name
from testing.tiny_bundle import tiny_bundle

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from loggpt_stream.model.bundle import Bundle
    from testing.kafka_server import KafkaServer

# Number of the instance whose line closes the sessions of the others.
LATER = 90_000_000
# What an end may take beyond shutdown_grace_s.
_END_WITHIN_S = 20.0

HUNG_SCORER = """
import sys, time
from loggpt_stream.model.scoring import Scorer
def hang(self, prepared):
    print('{"event": "scorer_hangs"}', file=sys.stderr, flush=True)
    time.sleep(3600)
Scorer.score_prepared = hang
"""
# And the end takes longer than one of them.
MANY_BATCHES = """
import asyncio, time
from loggpt_stream.kafka.transactions import TransactionalLog
from loggpt_stream.model.scoring import Scorer
read_batch = Scorer._read_batch
close = TransactionalLog.close
async def long(self):
    await asyncio.sleep(1)
    await close(self)
TransactionalLog.close = long
def slow(self, batch):
    time.sleep(0.02)
    return read_batch(self, batch)
Scorer._read_batch = slow
"""
HUNG_FETCH = """
from aiokafka import AIOKafkaConsumer
import asyncio
getmany = AIOKafkaConsumer.getmany
async def hung(self, *partitions, **options):
    if self._group_id is None:
        return await getmany(self, *partitions, **options)
    await asyncio.sleep(0.2)
    return {}
AIOKafkaConsumer.getmany = hung
"""
LONG_TAKE_OVER = """
import asyncio
from loggpt_stream.kafka.transactions import TransactionalLog
async def long(self):
    await asyncio.sleep(55)
TransactionalLog.take_over = long
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Every session is above the threshold: each one yields an alert, so none can be lost unseen."""
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "bundle", steps=5, alert_share=1.0)


def instance(number: int) -> str:
    return f"{number:08d}-0000-4000-8000-000000000000"


def line(number: int, second: int, text: str = "VM Started (Lifecycle Event)") -> bytes:
    minute, second = divmod(second, 60)
    head = f"2026-11-23 04:{minute:02}:{second:02}.000 7 INFO nova.compute.manager [-] "
    return f"{head}[instance: {instance(number)}] {text}".encode()


def ended(count: int, *, from_second: int = 0) -> list[bytes]:
    """Return lines of so many sessions, and one line that comes so late that all of them are closed by it."""
    lines = [line(number, from_second) for number in range(count)]
    return [*lines, line(LATER, from_second + 300)]


async def scores(topics: Topics) -> Counter[str]:
    """Return how many scores there are of each session."""
    records = await read_all(topics.bootstrap, topics.scores)
    return Counter(orjson.loads(record.value)["session"]["key"] for record in records)


async def test_a_hung_scorer_ends_the_process_in_time_and_the_next_one_scores_everything_once(
    kafka: KafkaServer, bundle: Bundle, tmp_path: Path
) -> None:
    topics = await Topics.create(kafka.bootstrap)
    flags = [*topics.flags(), "--bundle", str(bundle.path), "--clock-speed", "1e-6"]
    await produce(kafka.bootstrap, topics.input, ended(20))
    with DaemonProcess(tmp_path, [*flags, "--score-timeout-s", "2"], start=with_fault(HUNG_SCORER)) as daemon:
        failed = await daemon.saw("daemon_failed")
        assert "score_timeout_s = 2" in failed["errors"][0]
        assert await asyncio.to_thread(daemon.process.wait, 30) == 1
    assert await scores(topics) == {}
    with DaemonProcess(tmp_path, flags) as daemon:
        await daemon.reached("loggpt_sessions_scored_total", 20)
        assert await daemon.terminate() == 0
    assert await scores(topics) == {instance(number): 1 for number in range(20)}


async def test_a_fetch_that_hangs_fails_liveness_in_time_and_the_report_names_the_partition(
    kafka: KafkaServer, bundle: Bundle, tmp_path: Path
) -> None:
    topics = await Topics.create(kafka.bootstrap)
    flags = [*topics.flags(), "--bundle", str(bundle.path), "--stuck-after-s", "5"]
    with DaemonProcess(tmp_path, flags, start=with_fault(HUNG_FETCH)) as daemon:
        await daemon.ready()
        await asyncio.sleep(8)  # the setting allows no less than 5, and is looked at every 3
        assert (await daemon.get("/health/live"))[0] == 200  # there is nothing to read
        await produce(kafka.bootstrap, topics.input, ended(3))
        said = await daemon.saw("no_progress", timeout_s=30)
        assert said["what"] == "partition 0 is behind and not read"
        status, report = await daemon.get("/health/live")
        assert (status, orjson.loads(report)["stuck"][0]["what"]) == (503, said["what"])
        assert (await daemon.get("/health/ready"))[0] == 200


async def test_a_partition_that_is_not_taken_over_fails_liveness(
    kafka: KafkaServer, bundle: Bundle, tmp_path: Path
) -> None:
    topics = await Topics.create(kafka.bootstrap)
    flags = [*topics.flags(), "--bundle", str(bundle.path), "--stuck-after-s", "5", "--shutdown-grace-s", "1"]
    with DaemonProcess(tmp_path, flags, start=with_fault(LONG_TAKE_OVER)) as daemon:
        said = await daemon.saw("no_progress")
        assert said["what"] == "partition 0 is assigned and not taken over"
        assert (await daemon.get("/health/live"))[0] == 503
        # An end in the middle of a take-over waits for it no longer than for anything else.
        assert await daemon.terminate(timeout_s=1 + _END_WITHIN_S) == 0


async def test_a_broker_that_holds_still_is_away_and_no_reason_to_be_started_anew(
    kafka: KafkaServer, bundle: Bundle, tmp_path: Path
) -> None:
    topics = await Topics.create(kafka.bootstrap)
    flags = [*topics.flags(), "--bundle", str(bundle.path), "--stuck-after-s", "15"]
    with DaemonProcess(tmp_path, flags) as daemon:
        await daemon.ready()
        await produce(kafka.bootstrap, topics.input, ended(3))
        await daemon.reached("loggpt_sessions_scored_total", 3)
        kafka.freeze_broker(0)
        long_enough = asyncio.create_task(asyncio.sleep(15 + 3))
        try:
            away = await daemon.saw("broker_unavailable")
            assert "no answer in time" in away["reason"]
            await long_enough
            assert (await daemon.get("/health/live"))[0] == 200
            assert (await daemon.get("/health/ready"))[0] == 503
        finally:
            kafka.thaw_broker(0)
        await produce(kafka.bootstrap, topics.input, ended(3, from_second=600))
        await daemon.reached("loggpt_sessions_scored_total", 7)
        assert await daemon.terminate() == 0
    # Each twice, and what closed them the first time: what closed them the second time is open.
    assert await scores(topics) == {**{instance(number): 2 for number in range(3)}, instance(LATER): 1}


async def limited(topics: Topics, most_bytes: int) -> Topics:
    """Return the topics with others for alerts and dead letters, that take no larger messages."""
    names = unique_name("small-alerts"), unique_name("small-dead")
    for name in names:
        await create_topic(topics.bootstrap, name, configs={"max.message.bytes": str(most_bytes)})
    return replace(topics, alerts=names[0], dead_letters=names[1])


def noise(seed: int, count: int) -> str:
    """Return text that does not compress well, without spaces and digits: one long word for the masks."""
    letters = [chr(code) for code in range(0x4E00, 0x9000)]
    return "".join(random.Random(seed).choices(letters, k=count))


async def test_what_is_too_large_for_the_broker_arrives_once_in_a_small_form_and_nothing_is_lost(
    kafka: KafkaServer, bundle: Bundle, tmp_path: Path
) -> None:
    topics = await limited(await Topics.create(kafka.bootstrap), 20_000)
    lines = [line(number, 0) for number in range(5)]
    lines += [line(7, second, noise(second, 4_000)) for second in range(8)]
    bad = random.Random(1).randbytes(60_000)
    giant = [line(LATER, 300), bad]
    with DaemonProcess(tmp_path, [*topics.flags(), "--bundle", str(bundle.path), "--clock-speed", "1e-6"]) as daemon:
        await daemon.ready()
        await produce(kafka.bootstrap, topics.input, [*lines, *giant])
        lost = await daemon.saw("partition_lost")
        assert "MessageSizeTooLarge" in lost["error"]
        await daemon.reached("loggpt_sessions_scored_total", 6)
        await daemon.reached("loggpt_dead_letters_total", 1)
        assert await daemon.terminate() == 0
    keys = Counter(record.key.decode() for record in await read_all(kafka.bootstrap, topics.alerts))
    assert keys == {instance(number): 1 for number in (0, 1, 2, 3, 4, 7)}
    assert await scores(topics) == keys
    (letter,) = await read_all(kafka.bootstrap, topics.dead_letters)
    assert bad.startswith(letter.value)
    assert 5_000 < len(letter.value) < 20_000
    assert dict(letter.headers)["loggpt_truncated_from_bytes"] == b"60000"


async def test_a_limit_that_takes_not_even_the_small_form_ends_the_daemon_and_names_the_setting(
    kafka: KafkaServer, bundle: Bundle, tmp_path: Path
) -> None:
    topics = await limited(await Topics.create(kafka.bootstrap), 500)
    with DaemonProcess(tmp_path, [*topics.flags(), "--bundle", str(bundle.path), "--clock-speed", "1e-6"]) as daemon:
        await daemon.ready()
        await produce(kafka.bootstrap, topics.input, ended(2))
        assert await asyncio.to_thread(daemon.process.wait, 60) == 2
        assert b"max.message.bytes" in daemon.log_path.read_bytes()


async def test_at_the_memory_cap_reading_pauses_and_goes_on_and_every_line_is_scored(
    kafka: KafkaServer, bundle: Bundle, tmp_path: Path
) -> None:
    topics = await Topics.create(kafka.bootstrap)
    flags = [*topics.flags(), "--bundle", str(bundle.path), "--clock-speed", "1e-6"]
    # A megabyte holds about three hundred of these sessions.
    flags += ["--max-open-mb", "1", "--max-pending-sessions", "20", "--batch-tokens", "512"]
    with DaemonProcess(tmp_path, flags) as daemon:
        await daemon.ready()
        lines = [line(number, second) for second in range(3) for number in range(1_000)]
        await produce(kafka.bootstrap, topics.input, lines)
        await daemon.saw("reading_paused")
        await daemon.saw("reading_resumed")
        await daemon.reached("loggpt_records_total", len(lines))
        assert await daemon.metric("loggpt_open_bytes") <= 1_000_000
        assert (await daemon.get("/health/live"))[0] == 200
        assert await daemon.terminate() == 0
    told = [orjson.loads(record.value)["session"] for record in await read_all(kafka.bootstrap, topics.scores)]
    assert {each["close_reason"] for each in told} == {"memory"}
    assert all(each["truncated"] for each in told)
    spans = [(each["source"]["first_offset"], each["source"]["last_offset"]) for each in told]
    assert len(spans) == len(set(spans))


async def test_sigterm_ends_in_time_though_the_scorer_has_hours_of_work(
    kafka: KafkaServer, bundle: Bundle, tmp_path: Path
) -> None:
    topics = await Topics.create(kafka.bootstrap)
    flags = [*topics.flags(), "--bundle", str(bundle.path), "--clock-speed", "1e-6"]
    huge = [line(1, 0, f"step {noise(number, 6)}") for number in range(3_000)]
    small = [*flags, "--batch-tokens", "64", "--shutdown-grace-s", "1"]
    with DaemonProcess(tmp_path, small, start=with_fault(MANY_BATCHES)) as daemon:
        await daemon.ready()
        await produce(kafka.bootstrap, topics.input, [*huge, line(2, 300)])
        await daemon.reached("loggpt_sessions_pending", 1)
        assert await daemon.terminate(timeout_s=1 + _END_WITHIN_S) == 0
    assert await scores(topics) == {}
    with DaemonProcess(tmp_path, flags) as daemon:
        await daemon.reached("loggpt_sessions_scored_total", 1)
        assert await daemon.terminate() == 0
    assert await scores(topics) == {instance(1): 1}


async def test_sigterm_ends_in_time_though_the_scorer_hangs(kafka: KafkaServer, bundle: Bundle, tmp_path: Path) -> None:
    topics = await Topics.create(kafka.bootstrap)
    flags = [*topics.flags(), "--bundle", str(bundle.path), "--shutdown-grace-s", "1"]
    with DaemonProcess(tmp_path, flags, start=with_fault(HUNG_SCORER)) as daemon:
        await daemon.ready()
        await produce(kafka.bootstrap, topics.input, ended(2))
        await daemon.reached("loggpt_sessions_pending", 2)
        assert await daemon.terminate(timeout_s=1 + _END_WITHIN_S) == 0


class Stubborn(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka is untyped
    """Holds up a rebalance: it does not come back from the call that takes its partitions away."""

    def __init__(self) -> None:
        self.holding = asyncio.Event()
        self.let_go = asyncio.Event()

    async def on_partitions_revoked(self, revoked: Sequence[Any]) -> None:
        if revoked:
            self.holding.set()
            await self.let_go.wait()

    async def on_partitions_assigned(self, assigned: Sequence[Any]) -> None:
        """Nothing is read."""


async def test_sigterm_ends_in_time_in_the_middle_of_a_rebalance(
    kafka: KafkaServer, bundle: Bundle, tmp_path: Path
) -> None:
    topics = await Topics.create(kafka.bootstrap, partitions=2)
    flags = [*topics.flags(), "--bundle", str(bundle.path), "--shutdown-grace-s", "1"]
    options: dict[str, Any] = {
        "bootstrap_servers": kafka.bootstrap,
        "group_id": topics.group,
        "enable_auto_commit": False,
        "partition_assignment_strategy": (StickyPartitionAssignor,),
        "session_timeout_ms": 45_000,
        "heartbeat_interval_ms": 500,
    }
    stubborn, other, third = Stubborn(), AIOKafkaConsumer(**options), AIOKafkaConsumer(**options)
    with DaemonProcess(tmp_path, flags) as daemon:
        await daemon.ready()
        other.subscribe([topics.input], listener=stubborn)
        await other.start()
        while not other.assignment():
            await asyncio.sleep(0.1)
        third.subscribe([topics.input])
        joining = asyncio.create_task(third.start())
        await asyncio.wait_for(stubborn.holding.wait(), 60)
        deadline_s = time.monotonic() + 30
        while sum(each["event"] == "partitions_revoked" for each in daemon.events()) < 2:
            assert time.monotonic() < deadline_s
            await asyncio.sleep(0.1)
        daemon.process.send_signal(signal.SIGTERM)
        code = await asyncio.to_thread(daemon.process.wait, 1 + _END_WITHIN_S)
        stubborn.let_go.set()
        await joining
        await asyncio.gather(other.stop(), third.stop())
    assert code == 0


async def test_a_header_name_that_is_no_text_is_refused_with_its_place_and_read_past_once_it_is_deleted(
    kafka: KafkaServer, bundle: Bundle, tmp_path: Path
) -> None:
    topics = await Topics.create(kafka.bootstrap)
    await produce(kafka.bootstrap, topics.input, [line(1, 0)])
    flags = [*topics.flags(), "--bundle", str(bundle.path), "--clock-speed", "1e-6"]
    with DaemonProcess(tmp_path, flags) as daemon:
        await daemon.reached("loggpt_records_total", 1)
        assert await daemon.terminate() == 0
    # There is a record now that the next one looks at again before it reads on.
    await produce_unreadable_header(kafka.bootstrap, topics.input, line(1, 1))
    await produce(kafka.bootstrap, topics.input, ended(3, from_second=2))
    with DaemonProcess(tmp_path, flags) as daemon:
        assert await asyncio.to_thread(daemon.process.wait, 60) == 2
        said = daemon.log_path.read_text()
    assert "header whose name is not UTF-8" in said
    assert "in partition 0 at offset 1" in said
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    await admin.delete_records({TopicPartition(topics.input, 0): RecordsToDelete(before_offset=2)})
    await admin.close()
    with DaemonProcess(tmp_path, flags) as daemon:
        await daemon.reached("loggpt_sessions_scored_total", 3)
        assert await daemon.metric("loggpt_records_lost_total") >= 1


async def test_an_end_for_a_stated_reason_waits_for_no_scorer_that_hangs(
    kafka: KafkaServer, bundle: Bundle, tmp_path: Path
) -> None:
    topics = await Topics.create(kafka.bootstrap)
    flags = [*topics.flags(), "--bundle", str(bundle.path), "--clock-speed", "1e-6", "--score-timeout-s", "3600"]
    with DaemonProcess(tmp_path, flags, start=with_fault(HUNG_SCORER)) as daemon:
        await produce(kafka.bootstrap, topics.input, ended(3))
        await daemon.saw("scorer_hangs")
        await produce_unreadable_header(kafka.bootstrap, topics.input, line(1, 1))
        assert await asyncio.to_thread(daemon.process.wait, 60) == 2
        assert "header whose name is not UTF-8" in daemon.log_path.read_text()


async def test_records_stamped_in_nanoseconds_are_known_again_after_a_restart(
    kafka: KafkaServer, bundle: Bundle, tmp_path: Path
) -> None:
    topics = await Topics.create(kafka.bootstrap)
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    # By default Kafka 4 takes none from the future, and so it reads these.
    anything = {"message.timestamp.after.max.ms": str(2**63 - 1)}
    await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topics.input, configs=anything)])
    await admin.close()
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
        for number, value in enumerate(ended(3)):
            stamp_ns = 1_790_000_000_123_456_789 + number
            await producer.send_and_wait(topics.input, value, partition=0, timestamp_ms=stamp_ns)
    flags = [*topics.flags(), "--bundle", str(bundle.path), "--clock-speed", "1e-6"]
    with DaemonProcess(tmp_path, flags) as daemon:
        await daemon.reached("loggpt_sessions_scored_total", 3)
        assert await daemon.terminate() == 0
    with DaemonProcess(tmp_path, flags) as daemon:
        await daemon.saw("partition_taken_over")
        assert await daemon.terminate() == 0
        assert not any(each["event"] == "input_made_anew" for each in daemon.events())
    assert set((await scores(topics)).values()) == {1}


async def test_a_partition_that_the_state_topic_lacks_is_a_failure_like_any_other(kafka: KafkaServer) -> None:
    topics = await Topics.create(kafka.bootstrap)
    identity = unique_name("identity")
    log = TransactionalLog(
        TopicPartition(topics.state, 1),
        lambda: AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, transactional_id=identity),
        lambda: None,
    )
    with pytest.raises(KafkaError, match="Unrecognized partition"):
        await log.take_over()
    await log.close()
