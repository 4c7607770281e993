"""What must be true of topics before the daemon may read: looked up, judged, and said with what to do.

`refusal` is for the daemon, `must_hold` for the doctor: both speak the same words.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from aiokafka.admin.config_resource import ConfigResourceType
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    IncompatibleBrokerVersion,
    NoError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.admin import DescribeConfigsRequest
from aiokafka.protocol.metadata import MetadataRequest

from loggpt_stream.kafka.connection import NotYetError
from loggpt_stream.kafka.finding import Finding, Level

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Mapping

    from loggpt_stream.kafka.settings import KafkaSettings, PlacementSettings

ANSWER_WITHIN_S: Final = 15.0
_ADDRESS_WITHIN_S: Final = 5.0
POLICY: Final = "cleanup.policy"


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as the broker describes it.

    replicas: of the partition that has fewest. leaderless: partitions that nobody can read or write now.
    configs: name to value, defaults too; None where we may not see them.
    """

    name: str
    partitions: int
    replicas: int
    leaderless: int
    configs: Mapping[str, str] | None


@dataclass(frozen=True, slots=True)
class Cluster:
    """The brokers, the topics that exist of those asked for, and those of which we may not know whether they do."""

    brokers: int
    topics: Mapping[str, Topic]
    hidden: frozenset[str]


@asynccontextmanager
async def kafka_client(kafka: KafkaSettings) -> AsyncIterator[Any]:
    """Connect for plain requests. Raises `KafkaError` or `TimeoutError` where no broker answers.

    Addresses are tried in an order of chance: one whose host drops packets must leave time for the others.
    """
    client = AIOKafkaClient(**kafka.client_options(), request_timeout_ms=round(_ADDRESS_WITHIN_S * 1000))
    try:
        async with asyncio.timeout(ANSWER_WITHIN_S + _ADDRESS_WITHIN_S * len(client.hosts)):
            await client.bootstrap()
        yield client
    finally:
        await client.close()


async def reachable_node(client: Any) -> Any:  # noqa: ANN401 - aiokafka is untyped
    """Return a broker that can be connected to, if there is one: from here, some may be cut off that others see."""
    for broker in client.cluster.brokers():
        if await client.ready(broker.nodeId):
            return broker.nodeId
    return client.get_random_node()


async def look_up(client: Any, names: Iterable[str], node: int | None = None) -> Cluster:  # noqa: ANN401 - aiokafka is untyped
    """Return what a broker (`node`, or any) says of these topics; nothing is created by asking. Raises `KafkaError`."""
    node = await reachable_node(client) if node is None else node
    # Auto-creation would make a missing topic with the broker's defaults, which are the wrong ones for ours.
    answer = await client.send(node, MetadataRequest(sorted(set(names)), allow_auto_topic_creation=False))
    described, hidden = {}, set()
    for topic in answer.to_object()["topics"]:
        error = for_code(topic["error_code"])
        if error is TopicAuthorizationFailedError:
            hidden.add(topic["topic"])
        elif error is not UnknownTopicOrPartitionError and topic["partitions"]:
            described[topic["topic"]] = topic["partitions"]
    configs = await _configs(client, described, node)
    topics = {
        name: Topic(
            name,
            partitions=len(parts),
            replicas=min(len(part["replicas"]) for part in parts),
            leaderless=sum(part["leader"] < 0 for part in parts),
            configs=configs.get(name),
        )
        for name, parts in described.items()
    }
    return Cluster(len(answer.brokers), topics, frozenset(hidden))


async def _configs(client: Any, names: Iterable[str], node: int) -> dict[str, dict[str, str]]:  # noqa: ANN401 - aiokafka is untyped
    resources = [(ConfigResourceType.TOPIC, name, None) for name in names]
    if not resources:
        return {}
    try:
        answer = await client.send(node, DescribeConfigsRequest(resources, include_synonyms=False))
    except IncompatibleBrokerVersion:
        return {}  # the demo's embedded broker has none
    found = {}
    for code, message, _, name, entries in answer.resources:
        error = for_code(code)
        if error is NoError:
            found[name] = {entry[0]: entry[1] for entry in entries}
        elif error not in (TopicAuthorizationFailedError, ClusterAuthorizationFailedError):
            raise error(f"configuration of topic {name}: {message}")
    return found


def must_hold(settings: PlacementSettings, cluster: Cluster) -> Iterator[Finding]:
    """Yield what keeps the daemon from starting: topics that are missing, or a state topic that cannot keep state."""
    for role, name in settings.topics().items():
        if name in cluster.hidden:
            yield Finding(
                role,
                Level.FAILURE,
                f"{name}: {settings.kafka.username or 'an anonymous user'} may not describe it",
                f"kafka-acls.sh: allow Describe on topic {name}; the daemon needs "
                + ("Read too" if role == "input topic" else "Read and Write too" if "state" in role else "Write too"),
            )
        elif name not in cluster.topics:
            yield Finding(role, Level.FAILURE, f"{name} does not exist", _creation(settings, role, name, cluster))
    yield from _leaderless(settings, cluster)
    yield from _state_fits(settings, cluster)


def _leaderless(settings: PlacementSettings, cluster: Cluster) -> Iterator[Finding]:
    for role, name in settings.topics().items():
        topic = cluster.topics.get(name)
        if topic is not None and topic.leaderless:
            yield Finding(
                role,
                Level.FAILURE,
                f"{name}: {topic.leaderless} of {topic.partitions} partitions have no leader",
                "start the brokers that hold them: kafka-topics.sh --describe --unavailable-partitions names them",
            )


def _creation(settings: PlacementSettings, role: str, name: str, cluster: Cluster) -> str:
    told = f"kafka-topics.sh --bootstrap-server {settings.kafka.bootstrap} --create --topic {name}"
    if role in ("input topic", "output topic"):
        told += " --partitions N"
    if role == "state topic":
        source = cluster.topics.get(settings.input_topic)
        count = source.partitions if source else "AS_MANY_AS_THE_INPUT"
        told += f" --partitions {count} --config {POLICY}=compact"
    return f"{settings.creation(role)} with the same settings, or {told}"


def _state_fits(settings: PlacementSettings, cluster: Cluster) -> Iterator[Finding]:
    state, source = cluster.topics.get(settings.state_topic), cluster.topics.get(settings.input_topic)
    if state is None:
        return
    if source is not None and state.partitions != source.partitions:
        found = (
            f"{state.name} has {state.partitions} partitions and the input {source.name} has {source.partitions}: "
            "each partition's state has its own"
        )
        if state.partitions < source.partitions:
            remedy = (
                f"kafka-topics.sh --bootstrap-server {settings.kafka.bootstrap} --alter --topic {state.name} "
                f"--partitions {source.partitions}"
            )
        else:
            remedy = (
                "it may belong to another input: name a topic of its own with --state-topic, and run the doctor again"
            )
        yield Finding("state topic", Level.FAILURE, found, remedy)
    policy = (state.configs or {}).get(POLICY, "compact")
    if policy != "compact":
        yield Finding(
            "state topic",
            Level.FAILURE,
            f"{state.name} has {POLICY}={policy}: Kafka would delete the state of open sessions",
            alter_config(settings, state.name, f"{POLICY}=compact"),
        )


def alter_config(settings: PlacementSettings, topic: str, config: str) -> str:
    """Return the command that sets a topic's configuration."""
    return (
        f"kafka-configs.sh --bootstrap-server {settings.kafka.bootstrap} --alter --entity-type topics "
        f"--entity-name {topic} --add-config {config}"
    )


async def refusal(settings: PlacementSettings) -> str | None:
    """Return why the daemon must not start reading, in the doctor's words, a finding a line; None where it may.

    Raises `KafkaError`, `OSError` or `TimeoutError` where the broker does not answer, and where brokers are away that
    some partitions are on: to wait for them is the caller's. `UserError` for an unusable CA file.
    """
    async with kafka_client(settings.kafka) as client, asyncio.timeout(ANSWER_WITHIN_S):
        cluster = await look_up(client, settings.topics().values())
    passing = list(_leaderless(settings, cluster))
    lasting = [each for each in must_hold(settings, cluster) if each.level is Level.FAILURE and each not in passing]
    told = "\n".join(f"{each.check}: {each.found}. To put it right: {each.remedy}" for each in lasting or passing)
    if passing and not lasting:
        raise NotYetError(told)
    return told or None
