"""Where a partition that was taken over is read on. A gap is never jumped in silence."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from loggpt_stream.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiokafka import TopicPartition

    from loggpt_stream.kafka.metrics import MemberMetrics
    from loggpt_stream.kafka.partition_task import PartitionState
    from loggpt_stream.kafka.record_reader import RecordReader

log = get_logger(__name__)

ANSWER_WITHIN_S: Final = 10.0
_ASK_AGAIN: Final = 3
_ASK_AGAIN_AFTER_S: Final = 3.0


async def find_position(
    consumer: Any,  # noqa: ANN401 - aiokafka is untyped
    records: RecordReader,
    where: TopicPartition,
    partition: PartitionState[Any],
    *,
    start: str,
    metrics: MemberMetrics,
    input_recreated: Callable[[], Awaitable[None]],
) -> None:
    """Give a restored partition the position to read on at: its own, the group's, or where a new group begins.

    start: `earliest` or `latest`, for a new group. input_recreated: finishes what came of a topic that was deleted and
    created anew. Raises `KafkaError` or `TimeoutError` where the broker does not answer.
    """
    async with asyncio.timeout(ANSWER_WITHIN_S):
        first: int = (await consumer.beginning_offsets([where]))[where]
        end: int = (await consumer.end_offsets([where]))[where]
        position = partition.position
        if position is None:
            position = await consumer.committed(where)
            if position is None:
                position = end if start == "latest" else first
            partition.begin_at(position)
    if position > end:
        end = await _end_asked_again(consumer, where, position, end)
    async with asyncio.timeout(ANSWER_WITHIN_S):
        recreated = position > end or await _is_another_topic(records, where, partition)
    if recreated:
        log.error(
            "input_made_anew",
            partition=where.partition,
            position=position,
            end_offset=end,
            remedy="nothing to be done: what was open is judged as it is, and the new topic is read from its start",
        )
        await input_recreated()
        partition.begin_at(first)
    elif position < first:
        log.error(
            "records_lost",
            partition=where.partition,
            from_offset=position,
            to_offset=first,
            remedy="longer retention of the input topic, or a daemon that is down for less long",
        )
        metrics.records_lost.inc(first - position)
        partition.begin_at(first)


async def _end_asked_again(consumer: Any, where: TopicPartition, position: int, end: int) -> int:  # noqa: ANN401 - aiokafka is untyped
    """Return the end of a partition that seems to be before our position, once more.

    A broker that has lost the partition, and does not know it yet, answers from its past.
    """
    for _ in range(_ASK_AGAIN):
        if position <= end:
            break
        await asyncio.sleep(_ASK_AGAIN_AFTER_S)
        async with asyncio.timeout(ANSWER_WITHIN_S):
            await consumer._client.force_metadata_update()  # noqa: SLF001 - aiokafka offers no other way
            end = (await consumer.end_offsets([where]))[where]
    return end


async def _is_another_topic(records: RecordReader, where: TopicPartition, partition: PartitionState[Any]) -> bool:
    """Tell whether the record before the position is not the one that was read there."""
    if partition.last_record is None:
        return False
    offset, timestamp_ms = partition.last_record
    return await records.timestamp_ms(where.partition, offset) not in (None, timestamp_ms)
