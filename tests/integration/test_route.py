"""`loggpt-stream route` on a real Apache Kafka, in a process of its own, alone and before the daemon."""

from __future__ import annotations

import asyncio
import re
import signal
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from aiokafka import AIOKafkaProducer

from benchmarks.route_sessions import recorded
from loggpt_stream.commands.route import COMMAND
from loggpt_stream.kafka.transactions import partition_of
from testing.daemon_process import DaemonProcess, RouteProcess, Topics, produce, read_all
from testing.kafka_server import create_topic, unique_name
from testing.tiny_bundle import tiny_bundle

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from loggpt_stream.model.bundle import Bundle
    from testing.kafka_server import KafkaServer

OUTPUTS = 4
ONE, TWO = (f"{digit * 8}-0000-4000-8000-000000000000" for digit in "ab")
TRACEBACK = [b"Traceback (most recent call last):", b'  File "a.py", line 1, in f', b"KeyError: 'port'"]


@dataclass(frozen=True, slots=True)
class Routed:
    """Topics and group of one test."""

    bootstrap: str
    raw: str
    output: str
    state: str
    group: str

    @classmethod
    async def create(cls, bootstrap: str, *, raw_partitions: int = 1, output: str = "") -> Routed:
        """Create fresh topics, the output with 4 partitions; `output` names one that is there."""
        raw, state = unique_name("raw"), unique_name("route-state")
        await create_topic(bootstrap, raw, partitions=raw_partitions)
        await create_topic(bootstrap, state, partitions=raw_partitions, configs={"cleanup.policy": "compact"})
        if not output:
            output = unique_name("routed")
            await create_topic(bootstrap, output, partitions=OUTPUTS)
        return cls(bootstrap, raw, output, state, unique_name("route"))

    def flags(self) -> list[str]:
        """Return the router's flags for these topics."""
        return [
            *("--kafka.bootstrap", self.bootstrap, "--input-topic", self.raw, "--output-topic", self.output),
            *("--state-topic", self.state, "--group", self.group),
        ]

    async def written(self) -> list[Any]:
        """Return what a read_committed reader sees of the output, in the order of the raw records."""
        return sorted(await read_all(self.bootstrap, self.output), key=origin)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Every session is above the threshold."""
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "bundle", alert_share=1.0)


def origin(record: Any) -> tuple[int, int]:
    headers = dict(record.headers)
    return int(headers["loggpt_route_partition"]), int(headers["loggpt_route_offset"])


def nova34_lines(count: int) -> list[bytes]:
    return [record.value or b"" for record in recorded("nova34.log.xz")[:count]]


def instance_line(second: int, instance: str, message: str) -> bytes:
    return f"2026-11-23 04:07:{second:02}.000 7 INFO nova.compute.manager [-] [instance: {instance}] {message}".encode()


def assert_each_once(records: Sequence[Any], count: int, *, partition: int = 0) -> None:
    found = Counter(offset for number, offset in map(origin, records) if number == partition)
    assert found == Counter(range(count))


async def test_missing_topics_are_created_once_and_then_it_starts(
    kafka: KafkaServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    topics = Routed(kafka.bootstrap, *(unique_name(stem) for stem in ("raw", "routed", "route-state", "route")))
    create = [*topics.flags(), "--create-topics", "--partitions", "3"]
    assert await asyncio.to_thread(COMMAND.main, create) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.split(", 1 replica")[0] for line in told] == [
        f"{topics.raw}: 1 partition(s)",
        f"{topics.state}: 1 partition(s)",
        f"{topics.output}: 3 partition(s)",
    ]
    assert await asyncio.to_thread(COMMAND.main, create) == 0
    assert capsys.readouterr().out == "every topic is there\n"
    with RouteProcess(tmp_path, topics.flags()) as router:
        await router.ready()
        assert await router.terminate() == 0


async def test_records_go_out_as_they_came_with_the_key_of_their_session(kafka: KafkaServer, tmp_path: Path) -> None:
    topics = await Routed.create(kafka.bootstrap)
    big = b"x" * 800_000
    sent: list[tuple[bytes | None, bytes | None, int, list[tuple[str, bytes]]]] = [
        (b"old", instance_line(0, ONE, "one"), 1_700_000_000_000, [("shipper", b"a"), ("shipper", b"b")]),
        (None, instance_line(1, TWO, "two"), 1_700_000_000_001, []),
        (b"old", None, 1_700_000_000_002, []),
        (None, b'{"cut off', 1_700_000_000_003, [("empty", b"")]),
        (None, big, 1_700_000_000_004, []),
        (None, instance_line(2, ONE, "again"), 1_700_000_000_005, []),
    ]
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
        for key, value, timestamp_ms, headers in sent:
            await producer.send_and_wait(
                topics.raw, value, key=key, timestamp_ms=timestamp_ms, headers=headers, partition=0
            )
    with RouteProcess(tmp_path, topics.flags()) as route:
        await route.ready()
        await route.reached("loggpt_route_records_total", len(sent))
        assert await route.terminate() == 0
        assert sum(event["event"] == "partition_taken_over" for event in route.events()) == 1
    written = await topics.written()
    # What has no header goes on with the event before it.
    keys = [ONE.encode(), TWO.encode(), b"old", None, TWO.encode(), ONE.encode()]
    assert [record.key for record in written] == keys
    for offset, (record, (_, value, timestamp_ms, headers)) in enumerate(zip(written, sent, strict=True)):
        assert (record.value, record.timestamp) == (value, timestamp_ms)
        assert list(record.headers) == [
            *headers,
            ("loggpt_route_topic", topics.raw.encode()),
            ("loggpt_route_partition", b"0"),
            ("loggpt_route_offset", b"%d" % offset),
        ]
        assert record.partition == (partition_of(record.key, OUTPUTS) if record.key is not None else 0)


async def produce_in_transaction(bootstrap: str, topic: str, values: Sequence[bytes]) -> None:
    """Write records to partition 0 in one transaction."""
    async with (
        AIOKafkaProducer(bootstrap_servers=bootstrap, transactional_id=unique_name("shipper"), linger_ms=5) as producer,
        producer.transaction(),
    ):
        await asyncio.gather(*[await producer.send(topic, value, partition=0) for value in values])


async def lag(route: RouteProcess) -> list[str]:
    """Return the lag of each partition, as far as it is known."""
    _, text = await route.get("/metrics")
    return re.findall(r"^loggpt_route_consumer_lag_records{.*} (\S+)$", text, re.MULTILINE)


async def test_lines_keep_their_order_and_keys_have_the_partition_that_any_producer_gives_them(
    kafka: KafkaServer, tmp_path: Path
) -> None:
    topics = await Routed.create(kafka.bootstrap)
    lines = nova34_lines(8_000)
    await produce_in_transaction(kafka.bootstrap, topics.raw, lines)
    with RouteProcess(tmp_path, topics.flags()) as route:
        await route.ready()
        await route.reached("loggpt_route_routed_total", len(lines))
        assert await route.metric("loggpt_route_transactions_total") < len(lines) / 100
        # Behind the last record stands the marker of its transaction, which is no lag.
        async with asyncio.timeout(60):
            while await lag(route) != ["0.0"]:
                await asyncio.sleep(0.2)
        assert await route.terminate() == 0
    records = await read_all(kafka.bootstrap, topics.output)
    assert_each_once(records, len(lines))
    assert all(record.value == lines[origin(record)[1]] for record in records)
    for partition in range(OUTPUTS):
        offsets = [origin(record)[1] for record in records if record.partition == partition]
        assert offsets == sorted(offsets)
        assert len(offsets) > 500
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
        place = {record.key: record.partition for record in records}
        for key in list(place)[:20]:
            assert (await producer.send_and_wait(topics.output, b"x", key=key)).partition == place[key]


async def test_kills_in_the_middle_lose_nothing_and_repeat_nothing(kafka: KafkaServer, tmp_path: Path) -> None:
    topics = await Routed.create(kafka.bootstrap)
    lines = nova34_lines(40_000)
    await produce(kafka.bootstrap, topics.raw, lines)
    # In full flow: a transaction for every megabyte, and the group is told nothing of where they end.
    flow = ["--commit-interval-s", "3600", "--max-waiting-mb", "1", "--session-timeout-s", "6"]
    for _ in range(3):
        with RouteProcess(tmp_path, [*topics.flags(), *flow]) as route:
            await route.reached("loggpt_route_transactions_total", 1)
            route.process.send_signal(signal.SIGKILL)
            route.process.wait()
    with RouteProcess(tmp_path, [*topics.flags(), "--session-timeout-s", "6"]) as route:
        taken_over = await route.saw("partition_taken_over")
        assert 0 < taken_over["position"] < len(lines)
        await route.reached("loggpt_route_routed_total", len(lines) - taken_over["position"])
        assert await route.terminate() == 0
    written = await topics.written()
    assert_each_once(written, len(lines))
    # An undisturbed router, of its own group, chooses the same keys.
    calm = await Routed.create(kafka.bootstrap)
    flags = ["--input-topic", topics.raw, "--output-topic", calm.output, "--state-topic", calm.state]
    with RouteProcess(tmp_path, ["--kafka.bootstrap", kafka.bootstrap, *flags, "--group", calm.group]) as route:
        await route.ready()
        await route.reached("loggpt_route_routed_total", len(lines))
        assert await route.terminate() == 0
    assert [record.key for record in await calm.written()] == [record.key for record in written]


async def committed_records(topics: Routed) -> int:
    return len(await read_all(topics.bootstrap, topics.output))


async def test_a_second_member_takes_over_and_each_record_is_still_written_once(
    kafka: KafkaServer, tmp_path: Path
) -> None:
    topics = await Routed.create(kafka.bootstrap, raw_partitions=4)
    lines = nova34_lines(4_000)
    flags = [*topics.flags(), "--session-timeout-s", "6"]
    with RouteProcess(tmp_path, flags) as first:
        await first.ready()
        for partition in range(4):
            await produce(kafka.bootstrap, topics.raw, lines[:2_000], partition=partition)
        await first.reached("loggpt_route_records_total", 1_000)
        with RouteProcess(tmp_path, flags) as second:
            await second.ready()
            for partition in range(4):
                await produce(kafka.bootstrap, topics.raw, lines[2_000:3_000], partition=partition)
            await second.reached("loggpt_route_routed_total", 1_000)
            first.process.send_signal(signal.SIGKILL)
            for partition in range(4):
                await produce(kafka.bootstrap, topics.raw, lines[3_000:], partition=partition)
            for _ in range(240):
                if await committed_records(topics) >= 4 * len(lines):
                    break
                await asyncio.sleep(0.5)
            assert await second.terminate() == 0
    written = await topics.written()
    for partition in range(4):
        assert_each_once(written, len(lines), partition=partition)


async def test_a_traceback_follows_its_event_though_the_router_restarts_in_its_middle(
    kafka: KafkaServer, tmp_path: Path
) -> None:
    topics = await Routed.create(kafka.bootstrap)
    parts = [[instance_line(0, TWO, "other"), instance_line(1, ONE, "failed"), *TRACEBACK[:1]], TRACEBACK[1:]]
    for lines in parts:
        with RouteProcess(tmp_path, topics.flags()) as route:
            await route.ready()
            await produce(kafka.bootstrap, topics.raw, lines)
            await route.reached("loggpt_route_routed_total", len(lines))
            route.process.send_signal(signal.SIGKILL)
            route.process.wait()
    assert [record.key for record in await topics.written()] == [TWO.encode(), *[ONE.encode()] * 4]


def session_of(record: dict[str, Any]) -> tuple[str, str, int, str]:
    session = record["session"]
    return session["kind"], session["key"], session["lines"], session["close_reason"]


async def scored(topics: Topics) -> list[dict[str, Any]]:
    return [orjson.loads(record.value) for record in await read_all(topics.bootstrap, topics.scores)]


async def test_the_daemon_gathers_the_same_sessions_from_the_routed_topic_as_from_one_partition(
    kafka: KafkaServer, bundle: Bundle, tmp_path: Path
) -> None:
    lines = nova34_lines(6_000)
    # An hour later by their own time, on every partition: it closes what is open.
    last = [
        instance_line(0, f"{number:08}-0000-4000-8000-000000000000", "later").replace(b"11-23", b"11-24")
        for number in range(40)
    ]
    one, four = await Topics.create(kafka.bootstrap), await Topics.create(kafka.bootstrap, partitions=OUTPUTS)
    routed = await Routed.create(kafka.bootstrap, output=four.input)
    await produce(kafka.bootstrap, one.input, [*lines, *last])
    await produce(kafka.bootstrap, routed.raw, [*lines, *last])
    daemon_flags = ["--bundle", str(bundle.path), "--clock-speed", "1e-6", "--early-every-s", "0"]
    found = []
    with RouteProcess(tmp_path, routed.flags()) as route:
        await route.ready()
        for topics in (one, four):
            with DaemonProcess(tmp_path, [*topics.flags(), *daemon_flags]) as daemon:
                await daemon.ready()
                await daemon.reached("loggpt_records_total", len(lines) + len(last))
                for _ in range(600):
                    if await daemon.metric("loggpt_sessions_open") <= len(last):
                        break
                    await asyncio.sleep(0.1)
                for _ in range(600):
                    if await daemon.metric("loggpt_sessions_pending") == 0:
                        break
                    await asyncio.sleep(0.1)
                assert await daemon.terminate() == 0
            found.append(Counter(session_of(record) for record in await scored(topics)))
        assert await route.terminate() == 0
    assert found[1] == found[0]
    assert found[0].total() > 100


async def test_a_silent_routed_partition_closes_its_sessions_by_wall_clock(
    kafka: KafkaServer, bundle: Bundle, tmp_path: Path
) -> None:
    topics = await Topics.create(kafka.bootstrap, partitions=OUTPUTS)
    routed = await Routed.create(kafka.bootstrap, output=topics.input)
    with (
        RouteProcess(tmp_path, routed.flags()) as route,
        DaemonProcess(tmp_path, [*topics.flags(), "--bundle", str(bundle.path), "--clock-speed", "100"]) as daemon,
    ):
        await route.ready()
        await daemon.ready()
        await produce(kafka.bootstrap, routed.raw, [instance_line(0, ONE, "one"), instance_line(1, TWO, "two")])
        # Behind each record stands the marker of its transaction, and nothing comes after it.
        await daemon.reached("loggpt_sessions_scored_total", 2)
        assert await daemon.terminate() == 0
        assert await route.terminate() == 0
    assert Counter(map(session_of, await scored(topics))) == {
        ("instance", ONE, 1, "idle"): 1,
        ("instance", TWO, 1, "idle"): 1,
    }


async def test_missing_topics_are_refused_with_the_command_that_makes_them(kafka: KafkaServer, tmp_path: Path) -> None:
    topics = await Routed.create(kafka.bootstrap)
    with RouteProcess(tmp_path, [*topics.flags(), "--output-topic", "nowhere"]) as route:
        assert await asyncio.to_thread(route.process.wait, 60) == 2
        said = route.log_path.read_text()
    assert "output topic: nowhere does not exist" in said
    assert "loggpt-stream route --create-topics --partitions N with the same settings, or " in said
    assert f"kafka-topics.sh --bootstrap-server {kafka.bootstrap} --create --topic nowhere" in said
