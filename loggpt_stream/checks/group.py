"""What the doctor finds on the consumer group: who is in it, and how far behind it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupAuthorizationFailedError

from loggpt_stream.kafka.finding import Finding, Level
from loggpt_stream.kafka.group_versions import described_members

if TYPE_CHECKING:
    from loggpt_stream.daemon.settings import DaemonPlacement
    from loggpt_stream.kafka.topics import Topic


async def check_group(settings: DaemonPlacement, source: Topic) -> Finding:
    """Return the finding on members and lag of the daemon's group. Raises `KafkaError`."""
    admin = AIOKafkaAdminClient(**settings.kafka.client_options())
    consumer = AIOKafkaConsumer(**settings.kafka.client_options(), group_id=None, enable_auto_commit=False)
    partitions = [TopicPartition(source.name, number) for number in range(source.partitions)]
    try:
        await admin.start()
        members = len(await described_members(admin, settings.group))
        committed = await admin.list_consumer_group_offsets(settings.group, partitions=partitions)
        await consumer.start()
        starts, ends = await consumer.beginning_offsets(partitions), await consumer.end_offsets(partitions)
    except GroupAuthorizationFailedError:
        remedy = f"kafka-acls.sh: allow Describe on group {settings.group}"
        return Finding("group", Level.WARNING, f"{settings.group} may not be described", remedy)
    finally:
        await admin.close()
        await consumer.stop()
    known = {each: at.offset for each, at in committed.items() if at.offset >= 0}
    running = f"{settings.group}: {members} member{'s' * (members != 1)}"
    if not known:
        return Finding(
            "group", Level.OK, f"{running}, has read nothing yet: it begins with the {settings.start} record"
        )
    lag = sum(max(0, ends[each] - known.get(each, starts[each])) for each in partitions)
    lost = [each for each, offset in known.items() if offset < starts[each]]
    if lost:
        return Finding(
            "group",
            Level.WARNING,
            f"{running}, {lag:,} records behind; on {len(lost)} partitions some were removed before they were read",
            "longer retention of the input topic, or a daemon that is down for less long",
        )
    if members > source.partitions:
        return Finding(
            "group",
            Level.WARNING,
            f"{running} for {source.partitions} partitions, {lag:,} records behind: some members have nothing to do",
            "stop those, or make a new input topic with more partitions",
        )
    return Finding("group", Level.OK, f"{running}, {lag:,} records behind")
