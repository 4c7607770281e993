"""Records of the input topic, read again by their offsets: outside the group, one consumer for all partitions."""

from __future__ import annotations

import asyncio
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from aiokafka import TopicPartition

from loggpt_stream.kafka.transactions import stop_client

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_POLL_MS: Final = 500
# A record this near is read on to; one further away is sought.
_NEAR: Final = 500
_MAX_INT64: Final = 2**63 - 1


class RecordReader:
    """Reads records of one topic by their offsets. The consumer is made when it is first needed; `close` ends it."""

    def __init__(self, topic: str, make_consumer: Callable[[], Any]) -> None:
        """`make_consumer` returns a consumer without a group, not started."""
        self._topic = topic
        self._make_consumer = make_consumer
        self._consumer: Any = None
        self._lock = asyncio.Lock()
        self._stopping: set[asyncio.Task[None]] = set()

    async def read(self, partition: int, offsets: Sequence[int], found: dict[int, Any]) -> None:
        """Put the records at these offsets (ascending) into `found`, as far as the topic still has them.

        What is read so far stays in `found` where this is cancelled. Raises `KafkaError`, `OSError` or
        `UnicodeDecodeError`; the next call then begins with a new consumer.
        """
        async with self._lock:
            try:
                await self._read(TopicPartition(self._topic, partition), offsets, found)
            except BaseException:
                self._drop()
                raise

    async def timestamp_ms(self, partition: int, offset: int) -> int | None:
        """Return the timestamp of a record, or None where the topic has none at this offset.

        It comes by way of seconds, as the timestamps in the state do: of nanoseconds the last digits are lost.
        """
        async with self._lock:
            where = TopicPartition(self._topic, partition)
            consumer = await self._assigned(where)
            if not await self._there(where, [offset]):
                return None
            consumer.seek(where, offset)
            while await consumer.position(where) <= offset:
                # One alone: a header further on may be one that cannot be read.
                for (record,) in (await consumer.getmany(where, timeout_ms=_POLL_MS, max_records=1)).values():
                    return _by_way_of_seconds(record.timestamp) if record.offset == offset else None
            return None

    async def close(self) -> None:
        """Let go of the consumer."""
        self._drop()
        await asyncio.gather(*self._stopping)

    def _drop(self) -> None:
        """Let go of the consumer without waiting for that."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            stopping = asyncio.create_task(stop_client(consumer))
            self._stopping.add(stopping)
            stopping.add_done_callback(self._stopping.discard)

    async def _assigned(self, where: TopicPartition) -> Any:  # noqa: ANN401 - aiokafka is untyped
        if self._consumer is None:
            consumer = self._make_consumer()
            await consumer.start()
            self._consumer = consumer
        if self._consumer.assignment() != {where}:
            self._consumer.assign([where])
        return self._consumer

    async def _there(self, where: TopicPartition, offsets: Sequence[int]) -> list[int]:
        """Return those of the offsets that lie between the partition's start and end."""
        start: int = (await self._consumer.beginning_offsets([where]))[where]
        end: int = (await self._consumer.end_offsets([where]))[where]
        return [offset for offset in offsets if start <= offset < end]

    async def _read(self, where: TopicPartition, offsets: Sequence[int], found: dict[int, Any]) -> None:
        consumer = await self._assigned(where)
        for _, near in groupby(await self._there(where, offsets), key=lambda offset: offset // _NEAR):
            wanted = set(near)
            consumer.seek(where, min(wanted))
            while wanted and await consumer.position(where) <= max(wanted):
                for records in (await consumer.getmany(where, timeout_ms=_POLL_MS, max_records=_NEAR)).values():
                    found.update((record.offset, record) for record in records if record.offset in wanted)


def _by_way_of_seconds(timestamp_ms: int) -> int:
    return min(round(timestamp_ms / 1000 * 1000), _MAX_INT64)
