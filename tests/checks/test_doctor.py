"""The doctor against a real broker: content where all is right, and for each thing that is wrong the remedy."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.structs import TopicPartition
from confluent_kafka import admin

from loggpt_stream import cli
from loggpt_stream.checks.cluster import judge_version
from loggpt_stream.daemon.settings import DaemonSettings
from loggpt_stream.kafka.finding import Level
from loggpt_stream.kafka.settings import KafkaSettings
from loggpt_stream.kafka.topics import refusal
from testing.kafka_server import KafkaServer, create_topic, produce_unreadable_header, unique_name
from testing.tiny_bundle import tiny_bundle

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from loggpt_stream.model.bundle import Bundle

acl: Any = admin  # its types do not name what it re-exports
COMPACT = {"cleanup.policy": "compact", "segment.bytes": "16777216"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "bundle", steps=5, alert_share=0.3)


@dataclass(frozen=True)
class SetUp:
    """Names of the daemon's topics on a broker, and the flags that say so."""

    bootstrap: str
    bundle: Path
    input: str = field(default_factory=lambda: unique_name("input"))
    state: str = field(default_factory=lambda: unique_name("state"))
    alerts: str = field(default_factory=lambda: unique_name("alerts"))
    dead_letters: str = field(default_factory=lambda: unique_name("dead"))
    scores: str = field(default_factory=lambda: unique_name("scores"))
    group: str = field(default_factory=lambda: unique_name("group"))

    async def create(
        self, partitions: int = 2, configs: Mapping[str, Mapping[str, str]] | None = None, state_partitions: int = 0
    ) -> SetUp:
        """Create the topics rightly, but for `configs` of some (by their field's name; None as in: not at all)."""
        counts = {"input": partitions, "state": state_partitions or partitions}
        for role in ("input", "state", "alerts", "dead_letters", "scores"):
            wrong = (configs or {}).get(role, {})
            right = COMPACT if role == "state" else {}
            await create_topic(self.bootstrap, getattr(self, role), counts.get(role, 1), {**right, **wrong})
        return self

    @property
    def settings(self) -> DaemonSettings:
        """Return the daemon's settings for these topics."""
        return DaemonSettings(
            kafka=KafkaSettings(bootstrap=self.bootstrap),
            bundle=self.bundle,
            input_topic=self.input,
            state_topic=self.state,
            alert_topic=self.alerts,
            dead_letter_topic=self.dead_letters,
            score_topic=self.scores,
            group=self.group,
        )

    def flags(self) -> list[str]:
        """Return the doctor's flags for these topics."""
        return [
            *("--kafka.bootstrap", self.bootstrap, "--bundle", str(self.bundle), "--group", self.group),
            *("--input-topic", self.input, "--state-topic", self.state, "--alert-topic", self.alerts),
            *("--dead-letter-topic", self.dead_letters, "--score-topic", self.scores, "--http-port", "0"),
        ]


@dataclass(frozen=True)
class Told:
    """What the doctor printed: (level, check, text with remedy) of each finding, and its exit code."""

    code: int
    rows: list[tuple[str, str, str]]
    out: str

    def level(self, check: str, *texts: str) -> str:
        """Return the level of the finding on `check` that says all of `texts`."""
        found = [level for level, name, said in self.rows if name == check and all(text in said for text in texts)]
        assert len(found) == 1, f"{check} {texts}: {len(found)} findings\n{self.out}"
        return found[0]

    def failures(self) -> list[str]:
        """Return the checks that failed."""
        return [check for level, check, _ in self.rows if level == "FAIL"]


async def examine(set_up: SetUp, capsys: pytest.CaptureFixture[str], *more: str) -> Told:
    code = await asyncio.to_thread(cli.main, ["doctor", *set_up.flags(), *more])
    out = capsys.readouterr().out
    rows: list[tuple[str, str, str]] = []
    for line in out.splitlines():
        if line[:4].strip() in {"ok", "warn", "FAIL"}:
            rows.append((line[:4].strip(), line[6:24].strip(), line[24:]))
        elif rows and line.startswith(" "):
            level, check, text = rows[-1]
            rows[-1] = level, check, f"{text} {line.strip()}"
    return Told(code, rows, out)


def instance(number: int) -> str:
    return f"{number:08}-0000-4000-8000-000000000000"


def line(number: int, text: str = "VM Started", *, at_s: float | None = None) -> bytes:
    time_s = datetime.fromtimestamp(time.time() if at_s is None else at_s, UTC).strftime("%Y-%m-%d %H:%M:%S.000")
    return f"{time_s} 7 INFO nova.compute.manager [-] [instance: {instance(number)}] {text}".encode()


async def produce(set_up: SetUp, records: Sequence[tuple[int, bytes]], *, timestamp_ms: int | None = None) -> None:
    async with AIOKafkaProducer(bootstrap_servers=set_up.bootstrap) as producer:
        for partition, value in records:
            await producer.send(set_up.input, value, partition=partition, timestamp_ms=timestamp_ms)
        await producer.flush()


async def test_the_doctor_is_content_with_a_right_set_up_and_leaves_no_record(
    kafka: KafkaServer, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up = await SetUp(kafka.bootstrap, bundle.path).create()
    await produce(set_up, [(number % 2, line(number)) for number in range(40) for _ in range(3)])
    told = await examine(set_up, capsys)
    assert (told.code, told.failures()) == (0, [])
    assert told.level("bundle", bundle.model_fingerprint) == "ok"
    assert told.level("device", "cpu") == "ok"
    assert told.level("kafka version", "4.0 or newer") == "ok"
    assert told.level("input topic", f"{set_up.input}, 2 partitions") == "ok"
    assert told.level("state topic", f"{set_up.state}, 2 partitions", "compacted") == "ok"
    assert told.level("alert topic", set_up.alerts, "kept for ever") == "ok"
    assert told.level("permissions", "may be joined") == "ok"
    assert told.level("permissions", "transactions", set_up.state, set_up.alerts, set_up.dead_letters) == "ok"
    assert told.level("input keys", "40 sessions", "each on one of 2 partitions") == "ok"
    assert told.level("unkeyed lines", "0% of 120 lines") == "ok"
    assert told.level("input shapes", "plain 100% of 120 records") == "ok"
    assert told.level("clocks") == "ok"
    assert told.level("group", "0 members", "nothing yet") == "ok"
    # One broker is enough for a trial, and the doctor says what that costs.
    assert told.level("brokers", "1 broker", "take three") == "warn"
    assert told.level("state topic", "1 replica", "fine for a trial") == "warn"
    async with AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap) as consumer:
        outputs = [TopicPartition(name, 0) for name in (set_up.state, set_up.alerts, set_up.dead_letters)]
        consumer.assign(outputs)
        await consumer.seek_to_beginning(*outputs)
        assert await consumer.getmany(timeout_ms=1000) == {}


async def test_missing_topics_are_failures_and_create_topics_makes_them_as_the_daemon_needs_them(
    kafka: KafkaServer, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up = SetUp(kafka.bootstrap, bundle.path)
    told = await examine(set_up, capsys)
    assert told.code == 1
    for role, name in (("input", set_up.input), ("state", set_up.state), ("alert", set_up.alerts)):
        remedy = "doctor --create-topics"
        assert told.level(f"{role} topic", f"{name} does not exist", remedy, f"--create --topic {name}") == "FAIL"
    assert told.level("state topic", "cleanup.policy=compact") == "FAIL"
    created = await examine(set_up, capsys, "--create-topics", "--partitions", "3")
    assert (created.code, created.failures()) == (0, [])
    assert created.level("created", f"{set_up.input}: 3 partition(s)") == "ok"
    assert created.level("created", f"{set_up.state}: 3 partition(s)", "compact", "segment.bytes=16777216") == "ok"
    assert created.level("state topic", "3 partitions", "compacted") == "ok"
    assert created.level("input", "empty") == "warn"
    again = await examine(set_up, capsys, "--create-topics", "--partitions", "5")
    assert (again.code, [row for row in again.rows if row[1] == "created"]) == (0, [])
    assert again.level("input topic", "3 partitions") == "ok"
    assert await refusal(set_up.settings) is None


async def test_a_missing_state_topic_is_created_with_the_partitions_of_the_input_that_is_there(
    kafka: KafkaServer, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up = SetUp(kafka.bootstrap, bundle.path)
    await create_topic(kafka.bootstrap, set_up.input, 6)
    told = await examine(set_up, capsys, "--create-topics", "--partitions", "2")
    assert told.code == 0
    assert told.level("state topic", f"{set_up.state}, 6 partitions") == "ok"


@pytest.mark.parametrize(
    "wrong",
    [
        ("state", "cleanup.policy=delete", "FAIL", "delete the state", "--add-config cleanup.policy=compact"),
        ("state", "cleanup.policy=compact,delete", "FAIL", "delete the state", "--add-config cleanup.policy=compact"),
        ("state", "segment.bytes=1073741824", "warn", "segments of 1 GiB", "segment.bytes=16777216"),
        ("state", "unclean.leader.election.enable=true", "FAIL", "lost in silence", "enable=false"),
        ("state", "min.insync.replicas=2", "FAIL", "nothing can be written", "min.insync.replicas=1"),
        ("state", "max.message.bytes=100000", "FAIL", "at most 100,000 bytes", "max.message.bytes=1048588"),
        ("alerts", "cleanup.policy=compact", "warn", "only the last stays", "cleanup.policy=delete"),
        ("alerts", "unclean.leader.election.enable=true", "FAIL", "lost in silence", "enable=false"),
        ("alerts", "max.message.bytes=999999", "FAIL", "at most 999,999 bytes", "max.message.bytes=1048588"),
        ("dead_letters", "cleanup.policy=compact", "FAIL", "only the last stays", "cleanup.policy=delete"),
        ("dead_letters", "max.message.bytes=5000", "FAIL", "at most 5,000 bytes", "max.message.bytes=1048588"),
        ("input", "retention.ms=600000", "FAIL", "for 10 min and a session may last 6 h", "retention.ms=604800000"),
        ("input", "retention.ms=30000000", "warn", "for 8.33 h: after a longer outage", "retention.ms=604800000"),
        ("input", "cleanup.policy=compact", "FAIL", "only the last stays", "cleanup.policy=delete"),
        ("input", "unclean.leader.election.enable=true", "FAIL", "lost in silence", "enable=false"),
        ("input", "retention.bytes=104857600", "warn", "at most 100 MiB a partition", "retention.bytes=-1"),
    ],
)
async def test_a_topic_with_a_wrong_configuration_is_found_with_the_command_that_mends_it(
    wrong: tuple[str, str, str, str, str], kafka: KafkaServer, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    role, config, level, said, remedy = wrong
    name, _, value = config.partition("=")
    set_up = await SetUp(kafka.bootstrap, bundle.path).create(1, {role: {name: value}})
    told = await examine(set_up, capsys)
    check = {"alerts": "alert topic", "dead_letters": "dead letter topic"}.get(role, f"{role} topic")
    assert told.level(check, getattr(set_up, role), said, f"--entity-name {getattr(set_up, role)}", remedy) == level
    assert told.code == (1 if level == "FAIL" else 0)
    assert told.failures() == ([check] if level == "FAIL" else [])


@pytest.mark.parametrize(
    "counts",
    [(3, 1, "--alter --topic {} --partitions 3"), (1, 3, "--state-topic")],
)
async def test_a_state_topic_with_other_partitions_than_the_input_is_a_failure(
    counts: tuple[int, int, str], kafka: KafkaServer, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    partitions, of_state, remedy = counts
    set_up = await SetUp(kafka.bootstrap, bundle.path).create(partitions, state_partitions=of_state)
    told = await examine(set_up, capsys)
    said = f"has {of_state} partitions and the input {set_up.input} has {partitions}"
    assert told.level("state topic", said, remedy.format(set_up.state)) == "FAIL"
    assert told.failures() == ["state topic"]


async def test_the_daemon_is_refused_in_the_doctors_words(
    kafka: KafkaServer, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = {"state": {"cleanup.policy": "delete"}, "input": {"retention.ms": "1000"}}
    set_up = await SetUp(kafka.bootstrap, bundle.path).create(3, wrong, state_partitions=2)
    refused = (await refusal(set_up.settings) or "").splitlines()
    told = await examine(set_up, capsys)
    assert len(refused) == 2  # a short retention is no reason not to start
    for sentence in refused:
        found, remedy = sentence.removeprefix("state topic: ").split(". To put it right: ")
        assert told.level("state topic", remedy) == "FAIL"
        assert " ".join(found.split()) in " ".join(told.out.split())
    absent = await refusal(SetUp(kafka.bootstrap, bundle.path).settings) or ""
    assert absent.count("does not exist") == 5


async def test_asking_for_a_topic_does_not_create_it(
    kafka_programs: None, bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del kafka_programs
    with KafkaServer(tmp_path / "kafka", settings={"auto.create.topics.enable": "true"}) as kafka:
        set_up = SetUp(kafka.bootstrap, bundle.path)
        for _ in range(2):
            assert (await examine(set_up, capsys)).level("state topic", "does not exist") == "FAIL"
        client = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
        await client.start()
        assert set_up.state not in await client.list_topics()
        await client.close()


async def test_lines_of_one_session_on_several_partitions_are_found(
    kafka: KafkaServer, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up = await SetUp(kafka.bootstrap, bundle.path).create(2)
    await produce(set_up, [(turn % 2, line(number)) for number in range(10) for turn in range(4)])
    told = await examine(set_up, capsys)
    assert told.level("input keys", "10 of 10 sessions", "on 0, 1", "loggpt-stream route") == "FAIL"
    assert told.code == 1


async def test_without_keys_one_partition_is_enough(
    kafka: KafkaServer, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up = await SetUp(kafka.bootstrap, bundle.path).create(1)
    await produce(set_up, [(0, line(number)) for _ in range(4) for number in range(10)])
    assert (await examine(set_up, capsys)).level("input keys", "one partition") == "ok"


async def test_a_partition_that_holds_nearly_all_and_lines_without_session_are_warned_of(
    kafka: KafkaServer, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up = await SetUp(kafka.bootstrap, bundle.path).create(2)
    text = b"2026-11-23 04:07:34.520 7 INFO nova.compute.resource_tracker [-] Final resource view"
    await produce(set_up, [(1, line(number // 2)) for number in range(20)] + [(0, text)] * 250)
    told = await examine(set_up, capsys)
    assert told.level("input balance", "partition 0 holds 93% of 270 records", "route") == "warn"
    assert told.level("unkeyed lines", "93% of 270 lines", "--sessions.unkeyed window") == "warn"
    assert told.code == 0


async def test_records_that_hold_no_event_are_told_with_their_share_and_shapes(
    kafka: KafkaServer, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up = await SetUp(kafka.bootstrap, bundle.path).create(1)
    shipped = b'{"@timestamp": 1795406854.5, "log": "%s"}' % line(2)
    await produce(set_up, [(0, b'{"cut": ')] * 5 + [(0, line(1))] * 10 + [(0, shipped)] * 5)
    told = await examine(set_up, capsys)
    assert told.level("input shapes", "25.0% of 20 records", "bad_json 5", "plain 50%", "fluentbit 25%") == "warn"
    pinned = await examine(set_up, capsys, "--shape", "kolla")
    assert pinned.level("input shapes", "100.0% of 20", "other_shape", "shape is pinned to kolla") == "FAIL"


async def test_a_header_name_that_is_no_text_is_a_failure_with_its_place(
    kafka: KafkaServer, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up = await SetUp(kafka.bootstrap, bundle.path).create(2)
    await produce(set_up, [(0, line(1))] * 3)
    await produce_unreadable_header(kafka.bootstrap, set_up.input, line(2))
    told = await examine(set_up, capsys)
    assert (
        told.level("input", set_up.input, "not UTF-8", "partition 0 at offset 3", "kafka-delete-records.sh") == "FAIL"
    )
    assert told.level("group", "0 members") == "ok"  # what comes after it is looked at all the same


async def test_records_and_lines_from_the_future_are_warned_of(
    kafka: KafkaServer, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up = await SetUp(kafka.bootstrap, bundle.path).create(1)
    await produce(set_up, [(0, line(1, at_s=time.time() + 7200))] * 3)
    told = await examine(set_up, capsys)
    assert told.level("clocks", "the newest line is", "ahead", "NTP", "UTC") == "warn"
    assert told.code == 0
    await produce(set_up, [(0, line(1))], timestamp_ms=round((time.time() + 600) * 1000))
    assert (await examine(set_up, capsys)).level("clocks", "the newest record is", "and the newest line") == "warn"


async def test_members_and_lag_of_the_group_are_told(
    kafka: KafkaServer, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up = await SetUp(kafka.bootstrap, bundle.path).create(1)
    await produce(set_up, [(0, line(1))] * 12)
    where = TopicPartition(set_up.input, 0)
    async with AIOKafkaConsumer(
        set_up.input, bootstrap_servers=kafka.bootstrap, group_id=set_up.group, enable_auto_commit=False
    ) as consumer:
        while not consumer.assignment():
            await asyncio.sleep(0.05)
        await consumer.commit({where: 5})
        told = await examine(set_up, capsys)
    assert told.level("group", "1 member, 7 records behind") == "ok"


async def test_a_port_in_use_a_missing_bundle_and_device_are_failures_with_what_to_do(
    kafka: KafkaServer, bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up = await SetUp(kafka.bootstrap, bundle.path).create(1)
    listener = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    async with listener:
        wrong = ["--bundle", str(tmp_path / "none"), "--device", "cuda:99"]
        told = await examine(set_up, capsys, *wrong, "--http-host", "127.0.0.1", "--http-port", str(port))
    assert told.failures() == ["bundle", "device", "http port"]
    assert told.level("bundle", "loggpt-train") == "FAIL"
    assert told.level("http port", f"{port} on 127.0.0.1", "--http-port") == "FAIL"


def test_a_broker_that_does_not_answer_is_a_failure(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    told = asyncio.run(examine(SetUp("127.0.0.1:9", bundle.path), capsys))
    assert told.level("brokers", "127.0.0.1:9: nobody listens there: check kafka.bootstrap", "again") == "FAIL"
    assert told.code == 1


def test_a_broker_without_transactions_is_a_failure_and_an_old_one_a_warning() -> None:
    newest = {0: 8, 1: 11, 10: 2, 22: 3, 24: 1, 26: 1, 32: 2}
    assert judge_version(newest).level is Level.WARNING
    assert judge_version({**newest, 65: 0}).level is Level.OK
    refused = judge_version({key: version for key, version in newest.items() if key != 22})
    assert (refused.level, "InitProducerId" in refused.found) == (Level.FAILURE, True)
    assert "Kafka 2.5" in refused.remedy


@pytest.mark.slow
async def test_on_three_brokers_created_topics_outlive_one_of_them_and_nothing_is_left_to_warn_of(
    kafka_programs: None, bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del kafka_programs
    # Brokers may well ask for less than the daemon needs: what is created says so itself.
    careless = {"min.insync.replicas": 1, "unclean.leader.election.enable": "true"}
    with KafkaServer(tmp_path / "kafka", brokers=3, settings=careless) as kafka:
        set_up = SetUp(kafka.bootstrap, bundle.path)
        told = await examine(set_up, capsys, "--create-topics", "--partitions", "2")
        assert told.level("created", set_up.state, "3 replica(s)", "min.insync.replicas=2") == "ok"
        assert told.level("brokers", "3 brokers") == "ok"
        assert [row for row in told.rows if row[0] != "ok"] == [row for row in told.rows if row[1] == "input"]
        await create_topic(kafka.bootstrap, unused := unique_name("state"), 2, COMPACT)
        told = await examine(set_up, capsys, "--state-topic", unused)
        assert told.level("state topic", "min.insync.replicas=1", "--add-config min.insync.replicas=2") == "warn"
        assert told.level("state topic", "lost in silence") == "FAIL"


async def test_what_we_may_not_do_is_found_with_the_right_to_grant(
    kafka_programs: None, bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del kafka_programs
    authorizer = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "true",
    }
    with KafkaServer(tmp_path / "kafka", settings=authorizer) as kafka:
        set_up = await SetUp(kafka.bootstrap, bundle.path).create(1)
        await produce(set_up, [(0, line(1))] * 3)
        assert (await examine(set_up, capsys)).failures() == []
        await asyncio.to_thread(deny, kafka.bootstrap, "topic", set_up.alerts, "write")
        await asyncio.to_thread(deny, kafka.bootstrap, "topic", set_up.state, "describe_configs")
        await asyncio.to_thread(deny, kafka.bootstrap, "topic", set_up.dead_letters, "describe")
        await asyncio.to_thread(deny, kafka.bootstrap, "topic", set_up.input, "read")
        await asyncio.to_thread(deny, kafka.bootstrap, "group", set_up.group, "read")
        told = await examine(set_up, capsys)
        assert told.level("permissions", f"{set_up.alerts} may not be written", "allow Write") == "FAIL"
        assert (
            told.level("permissions", f"group {set_up.group}", f"Read and Describe on group {set_up.group}") == "FAIL"
        )
        assert told.level("state topic", "configuration may not be seen", "allow DescribeConfigs") == "warn"
        assert told.level("dead letter topic", "may not describe", "allow Describe") == "FAIL"
        assert told.level("input", "may not be read", "allow Read") == "FAIL"
        assert "may not describe it" in (await refusal(set_up.settings) or "")
        await asyncio.to_thread(
            deny, kafka.bootstrap, "transactional_id", f"{set_up.group}-{set_up.input}-doctor", "write"
        )
        told = await examine(set_up, capsys)
        assert told.level("permissions", "transactional id", f"--transactional-id {set_up.group}") == "FAIL"


def deny(bootstrap: str, resource: str, name: str, operation: str) -> None:
    """Take a right from everyone: clients without name are all that a plain listener has."""
    client = acl.AdminClient({"bootstrap.servers": bootstrap})
    binding = acl.AclBinding(
        acl.ResourceType[resource.upper()],
        name,
        acl.ResourcePatternType.LITERAL,
        "User:*",
        "*",
        acl.AclOperation[operation.upper()],
        acl.AclPermissionType.DENY,
    )
    # With a rule for one right, only what rules allow is allowed.
    all_else = acl.AclBinding(
        acl.ResourceType[resource.upper()],
        name,
        acl.ResourcePatternType.LITERAL,
        "User:*",
        "*",
        acl.AclOperation.ALL,
        acl.AclPermissionType.ALLOW,
    )
    for future in client.create_acls([binding, all_else]).values():
        future.result()
