"""The daemon on a real Apache Kafka, with a real (tiny) GPT, in a process of its own."""

from __future__ import annotations

import asyncio
import lzma
import os
import signal
from collections import Counter
from functools import cache
from typing import TYPE_CHECKING, Any

import jsonschema
import orjson
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from loggpt_stream.alerts.alert import schema
from loggpt_stream.commands.replay import COMMAND as REPLAY
from testing.daemon_process import DaemonProcess, Topics, own_process, produce, read_all
from testing.tiny_bundle import NOVA34, tiny_bundle

if TYPE_CHECKING:
    from pathlib import Path

    from loggpt_stream.model.bundle import Bundle
    from testing.kafka_server import KafkaServer


Extent = tuple[str, int, int, int]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Every session is above the threshold: each one yields an alert, so none can be lost unseen."""
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "bundle", alert_share=1.0)


@cache
def nova34_lines(count: int) -> tuple[bytes, ...]:
    with lzma.open(NOVA34) as stream:
        return tuple(line.rstrip(b"\n") for line, _ in zip(stream, range(count), strict=False))


def replayed(tmp_path: Path, bundle: Bundle, topic: str, lines: tuple[bytes, ...]) -> dict[str, dict[str, Any]]:
    """Return the score records of an offline pass over the same lines, by event id: the oracle."""
    log, scores = tmp_path / "golden.log", tmp_path / "scores.jsonl"
    log.write_bytes(b"\n".join(lines) + b"\n")
    flags = ["--bundle", str(bundle.path), "--input-topic", topic, "--out", os.devnull, "--scores", str(scores)]
    assert REPLAY.main([*flags, str(log)]) == 0
    return {record["id"]: record for record in map(orjson.loads, scores.read_bytes().splitlines())}


async def committed(topics: Topics) -> int | None:
    where = TopicPartition(topics.input, 0)
    async with AIOKafkaConsumer(
        bootstrap_servers=topics.bootstrap, group_id=topics.group, enable_auto_commit=False
    ) as consumer:
        consumer.assign([where])
        offset: int | None = await consumer.committed(where)
        return offset


def extent(record: dict[str, Any]) -> Extent:
    """Return the key, first and last offset and number of lines of a scored session."""
    session = record["session"]
    return session["key"], session["source"]["first_offset"], session["source"]["last_offset"], session["lines"]


def first_offset(record: dict[str, Any]) -> int:
    return int(record["session"]["source"]["first_offset"])


async def test_kafka_and_replay_give_the_same_sessions_and_scores(
    kafka: KafkaServer, bundle: Bundle, tmp_path: Path
) -> None:
    topics = await Topics.create(kafka.bootstrap)
    lines = nova34_lines(6_000)
    expected = replayed(tmp_path, bundle, topics.input, lines)
    # The wall clock closes no session here: however slow the machine is, both see the same lines and no more.
    flags = [*topics.flags(), "--bundle", str(bundle.path), "--clock-speed", "1e-6"]
    with DaemonProcess(tmp_path, flags, start=own_process) as daemon:
        await daemon.ready()
        await produce(kafka.bootstrap, topics.input, lines)
        await daemon.reached("loggpt_records_total", len(lines))
        closed = sum(record["session"]["close_reason"] != "end_of_input" for record in expected.values())
        await daemon.reached("loggpt_sessions_scored_total", closed)
        assert await daemon.terminate() == 0
    scored = [orjson.loads(record.value) for record in await read_all(kafka.bootstrap, topics.scores)]
    assert len(scored) == closed > 50
    assert len({record["id"] for record in scored}) == closed
    for record in scored:
        oracle = expected[record["id"]]
        assert record["session"] == oracle["session"]
        assert record["statistics"] == pytest.approx(oracle["statistics"], abs=1e-4)


async def test_each_alert_is_valid_and_shows_the_raw_lines(kafka: KafkaServer, bundle: Bundle, tmp_path: Path) -> None:
    topics = await Topics.create(kafka.bootstrap)
    lines = nova34_lines(3_000)
    with DaemonProcess(tmp_path, [*topics.flags(), "--bundle", str(bundle.path)]) as daemon:
        await daemon.ready()
        await produce(kafka.bootstrap, topics.input, lines)
        await daemon.reached("loggpt_alerts_total", 10)
        assert await daemon.terminate() == 0
    alerts = await read_all(kafka.bootstrap, topics.alerts)
    assert len(alerts) >= 10
    for record in alerts:
        value = orjson.loads(record.value)
        jsonschema.validate(value, schema())
        headers = dict(record.headers)
        assert headers["ce_id"].decode() == value["event"]["id"]
        assert headers["ce_specversion"] == b"1.0"
        assert record.key.decode() == value["loggpt"]["session"]["key"]
        for top in value["loggpt"]["top_lines"]:
            raw = lines[top["source"]["offset"]].decode()
            assert top["text"].split("\n")[0] == raw


async def test_a_kill_in_the_middle_loses_no_session_repeats_none_and_cuts_none(
    kafka: KafkaServer, bundle: Bundle, tmp_path: Path
) -> None:
    topics = await Topics.create(kafka.bootstrap)
    lines = nova34_lines(6_000)
    expected = replayed(tmp_path, bundle, topics.input, lines)
    flags = [*topics.flags(), "--bundle", str(bundle.path), "--clock-speed", "1e-6"]
    with DaemonProcess(tmp_path, flags) as daemon:
        await daemon.ready()
        await produce(kafka.bootstrap, topics.input, lines[:3_500])
        await daemon.reached("loggpt_records_total", 3_500)
        await daemon.reached("loggpt_sessions_scored_total", 1)
        daemon.process.send_signal(signal.SIGKILL)
        daemon.process.wait()
    still_open = [r for r in expected.values() if first_offset(r) < 3_500 <= r["session"]["source"]["last_offset"]]
    assert still_open, "the kill must hit open sessions"
    with DaemonProcess(tmp_path, flags) as daemon:
        taken_over = await daemon.saw("partition_taken_over")
        assert 0 < taken_over["position"] <= 3_500
        assert taken_over["open_sessions"] > 0
        await produce(kafka.bootstrap, topics.input, lines[3_500:])
        await daemon.reached("loggpt_records_total", len(lines) - taken_over["position"])
        assert await daemon.metric("loggpt_records_total") == len(lines) - taken_over["position"]
        assert await daemon.terminate() == 0
    scored = [orjson.loads(record.value) for record in await read_all(kafka.bootstrap, topics.scores)]
    closed = {key: r for key, r in expected.items() if r["session"]["close_reason"] != "end_of_input"}
    assert Counter(record["id"] for record in scored) == Counter(closed.keys())
    for record in scored:
        assert record["session"] == closed[record["id"]]["session"]
        assert record["statistics"] == pytest.approx(closed[record["id"]]["statistics"], abs=1e-4)
    alerts = [orjson.loads(record.value) for record in await read_all(kafka.bootstrap, topics.alerts)]
    assert Counter(alert["event"]["id"] for alert in alerts) == Counter(
        key for key, record in closed.items() if not record["unjudged"]
    )
    # The raw lines of sessions that were open at the kill are read from the topic again.
    spanning = [alert for alert in alerts if alert["event"]["id"] in {record["id"] for record in still_open}]
    assert spanning
    for alert in spanning:
        for top in alert["loggpt"]["top_lines"]:
            assert top["text"].split("\n")[0] == lines[top["source"]["offset"]].decode()


async def test_bad_records_become_dead_letters_with_reason_and_origin_and_stop_nothing(
    kafka: KafkaServer, bundle: Bundle, tmp_path: Path
) -> None:
    topics = await Topics.create(kafka.bootstrap)
    good = nova34_lines(400)
    bad = [b'{"message": "cut off', None, b'{"level": "INFO"}', bytes(range(128, 256)) * 8]
    with DaemonProcess(tmp_path, [*topics.flags(), "--bundle", str(bundle.path)]) as daemon:
        await daemon.ready()
        await produce(kafka.bootstrap, topics.input, [*good[:200], *bad, *good[200:]])
        await daemon.reached("loggpt_records_total", len(good) + len(bad))
        await daemon.reached("loggpt_dead_letters_total", len(bad))
        assert await daemon.terminate() == 0
    letters = await read_all(kafka.bootstrap, topics.dead_letters)
    assert sorted(record.value or b"" for record in letters) == sorted(value or b"" for value in bad)
    for record in letters:
        headers = dict(record.headers)
        assert headers["loggpt_reason"]
        assert headers["loggpt_topic"].decode() == topics.input
        assert (value := bad[int(headers["loggpt_offset"]) - 200]) is None or value == record.value


async def test_a_silent_partition_closes_its_sessions_by_wall_clock(
    kafka: KafkaServer, bundle: Bundle, tmp_path: Path
) -> None:
    topics = await Topics.create(kafka.bootstrap)
    lines = nova34_lines(1_500)
    with DaemonProcess(tmp_path, [*topics.flags(), "--bundle", str(bundle.path), "--clock-speed", "200"]) as daemon:
        await daemon.ready()
        await produce(kafka.bootstrap, topics.input, lines)
        await daemon.reached("loggpt_records_total", len(lines))
        for _ in range(300):
            if await daemon.metric("loggpt_sessions_open") == 0 == await daemon.metric("loggpt_sessions_pending"):
                break
            await asyncio.sleep(0.1)
        assert await daemon.metric("loggpt_sessions_open") == 0
        assert await daemon.terminate() == 0
    scored = [orjson.loads(record.value) for record in await read_all(kafka.bootstrap, topics.scores)]
    assert sum(record["session"]["lines"] for record in scored) > 1_000
    assert Counter(record["session"]["close_reason"] for record in scored)["idle"] > 0
    assert await committed(topics) == len(lines)


def instance_line(second: int, instance: str, message: str) -> bytes:
    return f"2026-11-23 04:07:{second:02}.000 7 INFO nova.compute.manager [-] [instance: {instance}] {message}".encode()


async def test_while_reading_is_paused_the_wall_clock_closes_nothing(
    kafka: KafkaServer, bundle: Bundle, tmp_path: Path
) -> None:
    goes_on, ends, later = (f"{digit * 8}-0000-4000-8000-000000000000" for digit in "abc")
    topics = await Topics.create(kafka.bootstrap)
    # One closed session is enough to pause, for as long as it waits for others: six seconds, which count as 120, twice
    # the idle gap.
    flags = ["--max-pending-sessions", "1", "--batch-wait-s", "6", "--clock-speed", "20"]
    with DaemonProcess(tmp_path, [*topics.flags(), "--bundle", str(bundle.path), *flags]) as daemon:
        await daemon.ready()
        lines = [instance_line(0, ends, "Deleted allocations for instance"), instance_line(10, goes_on, "one")]
        lines += [instance_line(20, goes_on, "two"), instance_line(45, later, "thirty seconds after the deletion")]
        await produce(kafka.bootstrap, topics.input, lines)
        await daemon.saw("reading_paused")
        await produce(kafka.bootstrap, topics.input, [instance_line(50, goes_on, "three")])
        await daemon.saw("reading_resumed")
        await daemon.reached("loggpt_sessions_scored_total", 3)
        assert await daemon.terminate() == 0
    scored = [orjson.loads(record.value)["session"] for record in await read_all(kafka.bootstrap, topics.scores)]
    assert [(each["key"], each["lines"]) for each in scored if each["key"] == goes_on] == [(goes_on, 3)]


async def test_while_the_broker_is_away_the_wall_clock_closes_nothing(
    kafka: KafkaServer, bundle: Bundle, tmp_path: Path
) -> None:
    topics = await Topics.create(kafka.bootstrap)
    key, other = (digit * 8 + "-0000-4000-8000-000000000000" for digit in "ab")
    # The idle gap of 60 s passes in 30 s: in less than the outage, and in more than the daemon takes to notice it (at
    # most 13 s, which count) and to read again after it.
    with DaemonProcess(tmp_path, [*topics.flags(), "--bundle", str(bundle.path), "--clock-speed", "2"]) as daemon:
        await daemon.ready()
        await produce(kafka.bootstrap, topics.input, [instance_line(0, key, "one")])
        # The outage must meet an open session: a transaction under way would have its partition taken over anew.
        async with asyncio.timeout(30):
            while await committed(topics) != 1:
                await asyncio.sleep(0.1)
        kafka.stop_broker(0)
        try:
            await daemon.saw("broker_unavailable")
            await asyncio.sleep(32)
            assert await daemon.metric("loggpt_sessions_open") == 1
        finally:
            kafka.start_broker(0)
        # The second one closes the session by its time.
        lines = [instance_line(5, key, "two"), instance_line(5, other, "later").replace(b" 04:07", b" 04:09")]
        await produce(kafka.bootstrap, topics.input, lines)
        await daemon.reached("loggpt_sessions_scored_total", 1)
        assert await daemon.terminate() == 0
        assert [each for each in daemon.events() if each["event"] in ("partition_lost", "partition_fenced")] == []
    scored = [orjson.loads(record.value)["session"] for record in await read_all(kafka.bootstrap, topics.scores)]
    assert [(each["key"], each["lines"]) for each in scored] == [(key, 2)]


async def test_waits_for_an_absent_broker_says_so_and_still_obeys_sigterm(bundle: Bundle, tmp_path: Path) -> None:
    with DaemonProcess(tmp_path, ["--kafka.bootstrap", "127.0.0.1:9", "--bundle", str(bundle.path)]) as daemon:
        said = await daemon.saw("broker_unavailable")
        assert said["bootstrap"] == "127.0.0.1:9"
        assert (await daemon.get("/health/live"))[0] == 200
        assert (await daemon.get("/health/ready"))[0] == 503
        await daemon.saw("broker_retry")
        await asyncio.sleep(4)
        assert orjson.loads((await daemon.get("/health/live"))[1])["seconds_since_last_turn"] < 3
        assert await daemon.terminate() == 0


async def test_records_that_retention_took_are_counted_and_said_and_reading_goes_on_behind_them(
    kafka: KafkaServer, bundle: Bundle, tmp_path: Path
) -> None:
    topics = await Topics.create(kafka.bootstrap)
    where = TopicPartition(topics.input, 0)
    lines = nova34_lines(60)
    await produce(kafka.bootstrap, topics.input, lines)
    async with AIOKafkaConsumer(
        bootstrap_servers=topics.bootstrap, group_id=topics.group, enable_auto_commit=False
    ) as consumer:
        consumer.assign([where])
        await consumer.commit({where: 5})
    admin = AIOKafkaAdminClient(bootstrap_servers=topics.bootstrap)
    await admin.start()
    await admin.delete_records({where: RecordsToDelete(before_offset=20)})
    await admin.close()
    # `latest` is for a new group alone: what is still there must be read.
    with DaemonProcess(tmp_path, [*topics.flags(), "--bundle", str(bundle.path), "--start", "latest"]) as daemon:
        said = await daemon.saw("records_lost")
        assert (said["from_offset"], said["to_offset"], said["level"]) == (5, 20, "error")
        await daemon.reached("loggpt_records_total", 40)
        assert await daemon.metric("loggpt_records_lost_total") == 15
        assert await daemon.terminate() == 0
        assert sum(event["event"] == "records_lost" for event in daemon.events()) == 1


@pytest.mark.parametrize(("start", "first"), [("earliest", 0), ("latest", 60)])
async def test_a_new_group_begins_where_it_is_told_and_remembers_that_at_once(
    kafka: KafkaServer, bundle: Bundle, tmp_path: Path, start: str, first: int
) -> None:
    topics = await Topics.create(kafka.bootstrap)
    await produce(kafka.bootstrap, topics.input, nova34_lines(60))
    flags = ["--start", start, "--commit-interval-s", "3600"]
    with DaemonProcess(tmp_path, [*topics.flags(), "--bundle", str(bundle.path), *flags]) as daemon:
        await daemon.ready()
        for _ in range(100):
            if (await committed(topics)) is not None:
                break
            await asyncio.sleep(0.1)
        assert await committed(topics) == first
        await produce(kafka.bootstrap, topics.input, nova34_lines(60))
        await daemon.reached("loggpt_records_total", 120 - first)
        assert await daemon.metric("loggpt_records_total") == 120 - first


async def test_sigterm_ends_in_time_though_the_broker_is_away_and_the_next_start_goes_on(
    kafka: KafkaServer, bundle: Bundle, tmp_path: Path
) -> None:
    topics = await Topics.create(kafka.bootstrap)
    flags = [*topics.flags(), "--bundle", str(bundle.path), "--shutdown-grace-s", "1"]
    with DaemonProcess(tmp_path, [*flags, "--commit-interval-s", "3600"]) as daemon:
        await daemon.ready()
        await produce(kafka.bootstrap, topics.input, [*nova34_lines(5), None])
        await daemon.reached("loggpt_records_total", 6)
        kafka.stop_broker(0)
        try:
            assert await daemon.terminate(timeout_s=45) == 0
        finally:
            kafka.start_broker(0)
    with DaemonProcess(tmp_path, flags) as daemon:
        await daemon.reached("loggpt_dead_letters_total", 1)
        assert await daemon.terminate() == 0
    assert len(await read_all(kafka.bootstrap, topics.dead_letters)) == 1


async def test_a_second_member_takes_over_partitions_and_nothing_is_lost_or_repeated(
    kafka: KafkaServer, bundle: Bundle, tmp_path: Path
) -> None:
    topics = await Topics.create(kafka.bootstrap, partitions=4)
    lines = nova34_lines(4_000)
    closed = [
        record
        for record in replayed(tmp_path, bundle, topics.input, lines).values()
        if record["session"]["close_reason"] != "end_of_input"
    ]
    flags = [*topics.flags(), "--bundle", str(bundle.path), "--clock-speed", "1e-6"]
    with DaemonProcess(tmp_path, flags) as first:
        await first.ready()
        for partition in range(4):
            await produce(kafka.bootstrap, topics.input, lines[:2_000], partition=partition)
        await first.reached("loggpt_records_total", 1_000)
        with DaemonProcess(tmp_path, flags) as second:
            await second.ready()
            for partition in range(4):
                await produce(kafka.bootstrap, topics.input, lines[2_000:], partition=partition)
            expected = Counter((n, extent(each)) for each in closed for n in range(4))
            found: Counter[tuple[int, Extent]] = Counter()
            for _ in range(120):
                scored = [orjson.loads(record.value) for record in await read_all(kafka.bootstrap, topics.scores)]
                found = Counter((each["session"]["source"]["partition"], extent(each)) for each in scored)
                if expected.keys() <= found.keys():
                    break
                await asyncio.sleep(0.5)
            # Each session whole and once, on each partition, whoever owned it when: its first line, its last, how many.
            assert found == expected
            assert await second.metric("loggpt_records_total") > 0
            assert await second.terminate() == 0
        assert await first.terminate() == 0
    assert len(expected) > 4 * 20
