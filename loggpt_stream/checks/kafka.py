"""What the doctor finds in Kafka: brokers, topics, permissions, traffic, group."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from aiokafka.errors import BrokerResponseError, KafkaError

from loggpt_stream.checks.cluster import check_brokers, check_permissions, check_version
from loggpt_stream.checks.create import DEFAULT_PARTITIONS, create_topics
from loggpt_stream.checks.group import check_group
from loggpt_stream.checks.topics import check_topics
from loggpt_stream.checks.traffic import check_traffic
from loggpt_stream.errors import UserError
from loggpt_stream.kafka.connection import explain, why_not
from loggpt_stream.kafka.finding import Finding, Level
from loggpt_stream.kafka.topics import kafka_client, look_up

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from loggpt_stream.checks.settings import DoctorSettings
    from loggpt_stream.model.bundle import Bundle


async def check_kafka(settings: DoctorSettings, bundle: Bundle | None) -> AsyncIterator[Finding]:
    """Yield the findings on brokers, topics, input and group; first create what is missing, where that is asked for."""
    try:
        async with kafka_client(settings.kafka) as client:
            cluster = await look_up(client, settings.topics().values())
            yield check_brokers(settings, cluster)
            yield await check_version(client)
            if settings.create_topics:
                counts = {"input topic": settings.partitions or DEFAULT_PARTITIONS}
                for created in await create_topics(client, settings, cluster, counts):
                    yield Finding("created", Level.OK, created)
                cluster = await look_up(client, settings.topics().values())
            for finding in check_topics(settings, cluster, bundle):
                yield finding
            for finding in await check_permissions(client, settings, cluster):
                yield finding
        source = cluster.topics.get(settings.input_topic)
        if source is not None and not source.leaderless:
            rules = bundle.preprocessing.session_rules if bundle else None
            for finding in await check_traffic(settings, source, rules, time.time()):
                yield finding
            yield await check_group(settings, source)
    except UserError as error:
        yield Finding("brokers", Level.FAILURE, str(error))
    except BrokerResponseError as error:
        found = f"{settings.kafka.bootstrap}: {explain(error)}"
        yield Finding("brokers", Level.FAILURE, found, "run the doctor again when that is put right")
    except (KafkaError, OSError, TimeoutError) as error:
        reason = await why_not(settings.kafka) or f"{settings.kafka.bootstrap}: {explain(error)}"
        yield Finding("brokers", Level.FAILURE, reason, "run the doctor again when that is put right")
