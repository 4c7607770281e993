"""deploy/kafka/acls.sh gives what each program needs, and nothing else, on a broker that enforces it."""

from __future__ import annotations

import asyncio
import os
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import orjson
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined] # exported all the same
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)
from pydantic import SecretStr

from loggpt_stream.checks.create import create_missing, create_topics
from loggpt_stream.checks.kafka import check_kafka
from loggpt_stream.checks.settings import DoctorSettings
from loggpt_stream.daemon.partition import Rejected
from loggpt_stream.daemon.publisher import DEAD_LETTER_BYTES, dead_letter
from loggpt_stream.daemon.settings import DaemonPlacement, DaemonSettings
from loggpt_stream.dead_letters.letters import Done, read_letters
from loggpt_stream.dead_letters.reinject import reinject
from loggpt_stream.dead_letters.selection import Selection
from loggpt_stream.errors import UserError
from loggpt_stream.kafka.finding import Level
from loggpt_stream.kafka.settings import KafkaSettings
from loggpt_stream.kafka.topics import kafka_client, look_up
from loggpt_stream.lines.names import DeadLetterReason
from loggpt_stream.lines.record import Record, UndecodableError
from loggpt_stream.route.settings import RouteCommand, RouteSettings
from testing.daemon_process import DaemonProcess, RouteProcess, Topics, produce, read_all
from testing.kafka_server import create_topic, unique_name
from testing.tiny_bundle import tiny_bundle
from tests.integration.conftest import PASSWORDS

if TYPE_CHECKING:
    from loggpt_stream.model.bundle import Bundle
    from testing.kafka_server import KafkaServer

SCRIPT = Path(__file__).parents[2] / "deploy" / "kafka" / "acls.sh"
RESOURCES = {
    "--topic": ResourceType.TOPIC,
    "--group": ResourceType.GROUP,
    "--transactional-id": ResourceType.TRANSACTIONAL_ID,
}
REFUSED_WITHIN_S = 30
Daemons = TypeVar("Daemons", bound=DaemonPlacement)


@dataclass(frozen=True, slots=True)
class Names:
    """Topics and group as a test names them, and as the script's variables."""

    input: str
    alerts: str
    dead_letters: str
    state: str
    scores: str
    group: str

    @classmethod
    def fresh(cls) -> Names:
        return cls(*(unique_name(stem) for stem in ("input", "alerts", "dead", "state", "scores", "group")))

    def variables(self) -> dict[str, str]:
        return {
            "INPUT_TOPIC": self.input,
            "ALERT_TOPIC": self.alerts,
            "DEAD_LETTER_TOPIC": self.dead_letters,
            "STATE_TOPIC": self.state,
            "SCORE_TOPIC": self.scores,
            "GROUP": self.group,
            "RAW_TOPIC": self.input,
            "ROUTE_STATE_TOPIC": self.state,
            "ROUTE_GROUP": self.group,
        }

    def daemon(self, settings: type[Daemons], kafka: KafkaSettings) -> Daemons:
        """Return settings of the daemon, or such that are based on them."""
        return settings(
            kafka=kafka,
            input_topic=self.input,
            alert_topic=self.alerts,
            dead_letter_topic=self.dead_letters,
            state_topic=self.state,
            score_topic=self.scores,
            group=self.group,
        )

    def topics(self) -> list[str]:
        return [self.input, self.alerts, self.dead_letters, self.state, self.scores]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Every session is above the threshold."""
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "bundle", steps=5, alert_share=1.0)


def commands(program: str, principal: str, variables: dict[str, str]) -> list[list[str]]:
    """Return the arguments of each call of kafka-acls.sh that the script makes."""
    told = subprocess.run(
        ["sh", str(SCRIPT), program],
        env={**os.environ, **variables, "PRINCIPAL": principal, "DRY_RUN": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return [shlex.split(line) for line in told.stdout.splitlines()]


def bindings(words: list[str]) -> list[Any]:
    """Return the ACLs that one call of kafka-acls.sh would make. Fails at an option that it does not know."""
    assert words[:4] == ["kafka-acls.sh", "--bootstrap-server", "localhost:9092", "--add"], words
    options = list(zip(words[4::2], words[5::2], strict=True))
    pattern = ResourcePatternType.LITERAL
    principal, resource, operations = "", None, []
    for name, value in options:
        match name:
            case "--allow-principal":
                principal = value
            case "--operation":
                # Kafka's DescribeConfigs is DESCRIBE_CONFIGS there.
                operations.append(AclOperation["".join(f"_{c}" if c.isupper() else c for c in value)[1:].upper()])
            case "--resource-pattern-type":
                assert value == "prefixed"
                pattern = ResourcePatternType.PREFIXED
            case _:
                resource = RESOURCES[name], value
    assert principal
    assert resource
    assert operations
    return [
        AclBinding(*resource, pattern, principal, "*", operation, AclPermissionType.ALLOW) for operation in operations
    ]


async def grant(server: KafkaServer, program: str, user: str, names: Names) -> None:
    """Make the ACLs of the script and wait until the broker knows them."""
    principal = f"User:{user}"
    variables = names.variables()
    if "route" in program:
        variables["INPUT_TOPIC"] = names.alerts  # it writes what the daemon reads
    wanted = [acl for words in commands(program, principal, variables) for acl in bindings(words)]
    admin = AdminClient({"bootstrap.servers": server.bootstrap})
    for done in admin.create_acls(wanted).values():
        done.result(30)
    any_name: Any = None
    of_user = AclBindingFilter(
        ResourceType.ANY,
        any_name,
        ResourcePatternType.ANY,
        principal,
        any_name,
        AclOperation.ANY,
        AclPermissionType.ANY,
    )
    async with asyncio.timeout(30):
        while len(admin.describe_acls(of_user).result(30)) < len(wanted):
            await asyncio.sleep(0.1)


def settings_of(server: KafkaServer, user: str) -> KafkaSettings:
    """Return how a user without any right of its own logs in."""
    assert server.security is not None
    return KafkaSettings(
        bootstrap=server.security.bootstrap("TLS"),
        security_protocol="SASL_SSL",
        sasl_mechanism="PLAIN",
        username=user,
        password=SecretStr(PASSWORDS[user]),
        ca_file=server.security.authority.certificate,
    )


def login(server: KafkaServer, user: str) -> dict[str, Any]:
    """Return the client options of such a user."""
    return settings_of(server, user).client_options()


async def granted(server: KafkaServer, program: str, user: str) -> tuple[Names, dict[str, Any]]:
    """Return fresh topics, the input with a record, on which `user` has the rights of `program`; and its options."""
    names = Names.fresh()
    for topic in names.topics():
        configs = {"cleanup.policy": "compact"} if topic == names.state else {}
        await create_topic(server.bootstrap, topic, configs=configs)
    async with AIOKafkaProducer(bootstrap_servers=server.bootstrap) as producer:
        await producer.send_and_wait(names.input, b"line")
        await producer.send_and_wait(names.alerts, b"not for you")
    await grant(server, program, user, names)
    return names, login(server, user)


def login_flags(server: KafkaServer, user: str, folder: Path) -> list[str]:
    """Return the flags with which one of our programs logs in as such a user."""
    kafka = settings_of(server, user)
    secret = folder / "password"
    secret.write_text(PASSWORDS[user])
    return [
        *("--kafka.bootstrap", kafka.bootstrap, "--kafka.security-protocol", kafka.security_protocol),
        *("--kafka.sasl-mechanism", kafka.sasl_mechanism, "--kafka.ca-file", str(kafka.ca_file)),
        *("--kafka.username", user, "--kafka.password-file", str(secret)),
    ]


def instance_line(minute: int) -> bytes:
    instance = f"{minute:08}-0000-4000-8000-000000000000"
    return f"2026-11-23 04:{minute:02}:00.000 7 INFO nova.compute.manager [-] [instance: {instance}] started".encode()


async def refused_writing(client: dict[str, Any], topic: str) -> None:
    async with AIOKafkaProducer(**client) as producer:
        with pytest.raises(TopicAuthorizationFailedError):
            await asyncio.wait_for(producer.send_and_wait(topic, b"x", partition=0), REFUSED_WITHIN_S)


async def refused_reading(client: dict[str, Any], topic: str) -> None:
    async with AIOKafkaConsumer(**client, auto_offset_reset="earliest") as consumer:
        consumer.assign([TopicPartition(topic, 0)])
        with pytest.raises(TopicAuthorizationFailedError):
            await asyncio.wait_for(consumer.getone(), REFUSED_WITHIN_S)


async def refused_identity(client: dict[str, Any], identity: str) -> None:
    producer = AIOKafkaProducer(**client, transactional_id=identity)
    with pytest.raises(TransactionalIdAuthorizationFailed):
        await asyncio.wait_for(producer.start(), REFUSED_WITHIN_S)
    await producer.stop()


async def refused_group(client: dict[str, Any], group: str, topic: str) -> None:
    consumer = AIOKafkaConsumer(topic, **client, group_id=group)
    with pytest.raises(GroupAuthorizationFailedError):
        await asyncio.wait_for(consumer.start(), REFUSED_WITHIN_S)
    await consumer.stop()


async def creation(client: dict[str, Any], topic: str) -> list[int]:
    """Return the error code of an attempt to create a topic."""
    admin = AIOKafkaAdminClient(**client)
    await admin.start()
    try:
        new = NewTopic(topic, num_partitions=1, replication_factor=1, topic_configs={"cleanup.policy": "compact"})
        return [error[1] for error in (await admin.create_topics([new])).topic_errors]
    finally:
        await admin.close()


async def test_the_daemon_has_what_it_needs_and_nothing_else(
    secure_kafka: KafkaServer, bundle: Bundle, tmp_path: Path
) -> None:
    names, client = await granted(secure_kafka, "run", "run-user")
    clear = secure_kafka.bootstrap
    topics = Topics(clear, names.input, names.alerts, names.dead_letters, names.scores, names.state, names.group)
    flags = [*topics.flags(), *login_flags(secure_kafka, "run-user", tmp_path)]
    flags += ["--bundle", str(bundle.path), "--clock-speed", "1e-6"]
    await produce(clear, names.input, [None, instance_line(0)])
    with DaemonProcess(tmp_path, flags) as daemon:
        await daemon.reached("loggpt_records_total", 3)
        await daemon.reached("loggpt_transactions_total", 1)
        assert await daemon.terminate() == 0
    # What was open comes back from the state topic, and its text for the alert from the input.
    with DaemonProcess(tmp_path, flags) as daemon:
        await produce(clear, names.input, [instance_line(5)])
        await daemon.reached("loggpt_sessions_scored_total", 1)
        assert await daemon.terminate() == 0
    assert [letter.key for letter in await read_all(clear, names.dead_letters)] == [b"no value"]
    (score,) = [orjson.loads(record.value) for record in await read_all(clear, names.scores)]
    assert score["session"]["source"]["first_offset"] == 2
    _, alert = [record.value for record in await read_all(clear, names.alerts)]
    assert [each["text"] for each in orjson.loads(alert)["loggpt"]["top_lines"]] == [instance_line(0).decode()]
    await refused_writing(client, names.input)
    for topic in (names.alerts, names.dead_letters, names.scores):
        await refused_reading(client, topic)
    await refused_identity(client, f"{names.group}-other-0")
    await refused_identity(client, names.group)
    await refused_group(client, f"{names.group}-2", names.input)
    assert await creation(client, unique_name("new")) == [TopicAuthorizationFailedError.errno]


async def test_as_the_daemons_user_the_doctor_finds_no_right_missing(secure_kafka: KafkaServer) -> None:
    names, _ = await granted(secure_kafka, "run", "run-user")
    settings = names.daemon(DoctorSettings, settings_of(secure_kafka, "run-user"))
    found = [each async for each in check_kafka(settings, None)]
    assert [each for each in found if each.level is Level.FAILURE] == []
    unseen = [each.check for each in found if "may not be seen" in each.found]
    assert unseen == ["input topic", "alert topic", "dead letter topic", "score topic"]
    await grant(secure_kafka, "doctor", "run-user", names)
    found = [each async for each in check_kafka(settings, None)]
    assert [each for each in found if each.level is Level.FAILURE or "may not" in each.found] == []


async def test_dead_letters_can_be_read_and_put_back_by_a_user_of_their_own(secure_kafka: KafkaServer) -> None:
    names, client = await granted(secure_kafka, "dead-letters", "letters-user")
    rejected = Rejected(
        Record(b"", names.input, 0, 7, 1_795_442_888.0), UndecodableError(DeadLetterReason.OTHER_SHAPE, "by a test")
    )
    letter = dead_letter(rejected, DEAD_LETTER_BYTES)
    async with AIOKafkaProducer(bootstrap_servers=secure_kafka.bootstrap) as producer:
        await producer.send_and_wait(names.dead_letters, letter.value, letter.key, headers=list(letter.headers))
    settings = names.daemon(DaemonSettings, settings_of(secure_kafka, "letters-user"))
    read = [each async for each in read_letters(settings.kafka, names.dead_letters, Done())]
    assert [each.reason for each in read] == ["other_shape"]
    outcome = await reinject(settings, Selection(), again=False, dry_run=False)
    assert outcome.put_back == 1
    await refused_reading(client, names.input)
    await refused_writing(client, names.alerts)
    await refused_identity(client, f"{names.group}-{names.input}-0")


async def test_route_has_what_it_needs_and_nothing_else(secure_kafka: KafkaServer, tmp_path: Path) -> None:
    names, client = await granted(secure_kafka, "route", "route-user")
    flags = ["--input-topic", names.input, "--output-topic", names.alerts, "--state-topic", names.state]
    flags += ["--group", names.group, *login_flags(secure_kafka, "route-user", tmp_path)]
    for count in (1, 2):
        # The second one finds in the state topic where the first one was.
        with RouteProcess(tmp_path, flags) as route:
            await route.reached("loggpt_route_routed_total", 1)
            assert await route.terminate() == 0
        written = [record.value for record in await read_all(secure_kafka.bootstrap, names.alerts)]
        assert written == [b"not for you", *[b"line"] * count]
        await produce(secure_kafka.bootstrap, names.input, [b"line"])
    await refused_writing(client, names.input)
    await refused_writing(client, names.scores)
    await refused_reading(client, names.alerts)
    await refused_identity(client, f"{names.group}-other-0")
    await refused_group(client, unique_name("other"), names.input)


async def test_who_creates_topics_can_create_these_and_neither_read_nor_write(secure_kafka: KafkaServer) -> None:
    names, client = Names.fresh(), login(secure_kafka, "doctor-user")
    assert await creation(client, names.state) == [TopicAuthorizationFailedError.errno]
    await grant(secure_kafka, "create-topics", "doctor-user", names)
    for topic in names.topics():
        assert await creation(client, topic) == [0]
    assert await creation(client, unique_name("other")) == [TopicAuthorizationFailedError.errno]
    await refused_writing(client, names.alerts)
    await refused_reading(client, names.input)


async def test_who_creates_the_routers_topics_can_create_these_and_nothing_else(secure_kafka: KafkaServer) -> None:
    names, kafka = Names.fresh(), settings_of(secure_kafka, "setup-user")
    await grant(secure_kafka, "create-route-topics", "setup-user", names)
    settings = RouteSettings(
        kafka=kafka, input_topic=names.input, output_topic=names.alerts, state_topic=names.state, group=names.group
    )
    async with kafka_client(kafka) as client:
        cluster = await look_up(client, settings.topics().values())
        counts = {"input topic": 1, "output topic": 3}
        assert len(await create_topics(client, settings, cluster, counts)) == 3
        there = await look_up(client, settings.topics().values())
    assert {name: topic.partitions for name, topic in there.topics.items()} == {
        names.input: 1,
        names.alerts: 3,
        names.state: 1,
    }
    assert await creation(login(secure_kafka, "setup-user"), unique_name("other")) == [
        TopicAuthorizationFailedError.errno
    ]


async def test_topics_that_may_not_be_seen_are_not_taken_for_topics_that_are_there(secure_kafka: KafkaServer) -> None:
    names = Names.fresh()
    settings = RouteCommand(
        kafka=settings_of(secure_kafka, "limited"),
        input_topic=names.input,
        output_topic=names.alerts,
        state_topic=names.state,
    )
    with pytest.raises(UserError, match=rf"limited may not describe .*{names.input}.*acls\.sh create-route-topics"):
        await create_missing(settings, {"input topic": 1, "output topic": settings.partitions})


async def test_without_rights_nothing_goes(secure_kafka: KafkaServer) -> None:
    topic, client = unique_name("input"), login(secure_kafka, "limited")
    await create_topic(secure_kafka.bootstrap, topic)
    # A topic that may not even be described is refused before anything of it is read or written.
    admin = AIOKafkaAdminClient(**client)
    await admin.start()
    assert [each["error_code"] for each in await admin.describe_topics([topic])] == [
        TopicAuthorizationFailedError.errno
    ]
    await admin.close()
    consumer = AIOKafkaConsumer(topic, **client, group_id=unique_name("any"))
    with pytest.raises(TopicAuthorizationFailedError):
        await asyncio.wait_for(consumer.start(), REFUSED_WITHIN_S)
    await consumer.stop()
    await refused_identity(client, unique_name("any"))
    assert await creation(client, unique_name("new")) == [TopicAuthorizationFailedError.errno]
