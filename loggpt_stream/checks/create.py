"""`--create-topics` of `loggpt-stream doctor` and `route`: make the topics that are missing, as they are needed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, NoError, TopicAlreadyExistsError, for_code

from loggpt_stream.checks.topics import STATE_SEGMENT_BYTES
from loggpt_stream.errors import UserError
from loggpt_stream.kafka.connection import explain, why_not
from loggpt_stream.kafka.topics import ANSWER_WITHIN_S, POLICY, kafka_client, look_up

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from loggpt_stream.kafka.settings import PlacementSettings
    from loggpt_stream.kafka.topics import Cluster

_REPLICAS: Final = 3
_IN_SYNC: Final = 2
_WEEK_MS: Final = 7 * 86_400_000
_MONTH_MS: Final = 30 * 86_400_000
DEFAULT_PARTITIONS: Final = 4


async def create_missing(settings: PlacementSettings, partitions: Mapping[str, int]) -> list[str]:
    """Create the topics that are missing, and return a sentence for each; partitions: by a topic's role.

    Raises `UserError` where the broker does not answer, refuses, or does not let us see what is missing.
    """
    try:
        async with kafka_client(settings.kafka) as client:
            cluster = await look_up(client, settings.topics().values())
            if cluster.hidden:
                who, what = settings.kafka.username or "an anonymous user", ", ".join(sorted(cluster.hidden))
                raise UserError(
                    f"{who} may not describe {what}: whether it is there cannot be told, and nothing was created. For "
                    "whoever sets up, deploy/kafka/acls.sh create-route-topics gives the rights"
                )
            return await create_topics(client, settings, cluster, partitions)
    except (KafkaError, OSError, TimeoutError) as error:
        raise UserError(await why_not(settings.kafka) or f"{settings.kafka.bootstrap}: {explain(error)}") from error


async def create_topics(
    client: Any,  # noqa: ANN401 - aiokafka is untyped
    settings: PlacementSettings,
    cluster: Cluster,
    partitions: Mapping[str, int],
) -> list[str]:
    """Create what is missing, wait until every broker knows it, and return a sentence for each topic.

    What exists is left as it is.

    partitions: by the topic's role, the input's among them. Raises `UserError` where the broker refuses.
    """
    wanted = list(missing_topics(settings, cluster, partitions))
    if not wanted:
        return []
    admin = AIOKafkaAdminClient(**settings.kafka.client_options())
    try:
        await admin.start()
        answer = await admin.create_topics(wanted)
    finally:
        await admin.close()
    for name, code, *message in answer.topic_errors:
        error = for_code(code)
        # Somebody may have been as quick as we.
        if error not in (NoError, TopicAlreadyExistsError):
            said = f": {message[0]}" if message and message[0] else ""
            raise UserError(
                f"topic {name} could not be created ({error.__name__}{said}): let whoever may do so run this command, "
                "or create it by the one of Kafka's that is shown where the topic is missing."
            )
    async with asyncio.timeout(ANSWER_WITHIN_S):
        for broker in client.cluster.brokers():
            while not _led(await look_up(client, [topic.name for topic in wanted], broker.nodeId), len(wanted)):  # noqa: ASYNC110 - brokers do not call
                await asyncio.sleep(0.1)
    return [
        f"{topic.name}: {topic.num_partitions} partition(s), {topic.replication_factor} replica(s), "
        + ", ".join(f"{name}={value}" for name, value in topic.topic_configs.items())
        for topic in wanted
    ]


def _led(cluster: Cluster, count: int) -> bool:
    return len(cluster.topics) == count and not any(topic.leaderless for topic in cluster.topics.values())


def missing_topics(settings: PlacementSettings, cluster: Cluster, partitions: Mapping[str, int]) -> Iterator[NewTopic]:
    """Yield the topics to create. Replicas and those in sync are as many as the brokers allow, up to 3 and 2."""
    replicas = min(_REPLICAS, cluster.brokers)
    source = cluster.topics.get(settings.input_topic)
    counted = source.partitions if source else partitions["input topic"]
    safe = {"min.insync.replicas": str(min(_IN_SYNC, replicas)), "unclean.leader.election.enable": "false"}
    for role, name in settings.topics().items():
        if name in cluster.topics or name in cluster.hidden:
            continue
        if role == "state topic":
            # Small segments and an eager cleaner: what a takeover has to read stays near to what is live.
            configs = {POLICY: "compact", "segment.bytes": str(STATE_SEGMENT_BYTES), "min.cleanable.dirty.ratio": "0.1"}
        else:
            kept_ms = _MONTH_MS if role in ("alert topic", "dead letter topic") else _WEEK_MS
            configs = {POLICY: "delete", "retention.ms": str(kept_ms)}
        own = counted if role in ("input topic", "state topic") else min(counted, DEFAULT_PARTITIONS)
        count = partitions.get(role, own)
        yield NewTopic(name, count, replicas, topic_configs={**configs, **safe, "max.message.bytes": "1048588"})
