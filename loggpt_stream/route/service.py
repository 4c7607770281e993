"""The router: raw records in, the same records out with the key of their session, each exactly once.

It is a member of a consumer group like the daemon (`Membership`), and keeps the same promise by the same means: one
transaction of each partition's own producer writes the records, where the input was read to, and what later keys depend
on. A crash at any moment leaves either all of that or nothing.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

from loggpt_stream.kafka.clients import Clients
from loggpt_stream.kafka.health import Health, serve
from loggpt_stream.kafka.membership import Membership
from loggpt_stream.kafka.record_reader import RecordReader
from loggpt_stream.kafka.transactions import Bulk
from loggpt_stream.lines.record import as_record
from loggpt_stream.lines.shapes import known_shape
from loggpt_stream.logs import get_logger
from loggpt_stream.route.metrics import RouteMetrics
from loggpt_stream.route.partition import RecordCommit, RoutedPartition
from loggpt_stream.route.state_formats import STATE_FORMATS

if TYPE_CHECKING:
    from aiokafka import TopicPartition

    from loggpt_stream.kafka.changelog import Changelog
    from loggpt_stream.kafka.membership import Clock
    from loggpt_stream.route.settings import RouteSettings

log = get_logger(__name__)

# So many records are worth a transaction before it is due.
_ENOUGH_RECORDS: Final = 2_000
# Before compression. A record may be larger, and is then a batch of its own.
_BATCH_BYTES: Final = 512 * 1024
_LOOK_AGAIN_S: Final = 0.02


class Router:
    """One process of the consumer group, from start to SIGTERM."""

    state_formats = STATE_FORMATS

    def __init__(self, settings: RouteSettings, clock: Clock = time.time) -> None:
        """Start outside the group."""
        self.settings = settings
        self.metrics = RouteMetrics()
        self.health = Health(last_turn_s=clock())
        self._clock = clock
        clients = Clients(settings, {"max_batch_size": _BATCH_BYTES})
        records = RecordReader(settings.input_topic, clients.reader)
        self._group = Membership[RoutedPartition, RecordCommit](
            settings,
            clients,
            records,
            application=self,
            publisher=self,
            metrics=self.metrics,
            health=self.health,
            clock=clock,
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, then commit. Raises what ends the router otherwise."""
        settings = self.settings
        async with AsyncExitStack() as lifetimes:
            port = lifetimes.enter_context(
                serve(settings.http_host, settings.http_port, self.metrics.registry, self.health, self._clock)
            )
            log.info(
                "route_starting",
                http_port=port,
                input_topic=settings.input_topic,
                output_topic=settings.output_topic,
            )
            lifetimes.push_async_callback(self._group.close)
            if not await self._group.connect(stop):
                return
            async with asyncio.TaskGroup() as tasks:
                beside = self._group.join(tasks)
                await self._read(stop)
                log.info("route_stopping")
                self.health.stopping = True
                await self._group.leave()
                for task in beside:
                    task.cancel()
            log.info("route_stopped")

    async def _read(self, stop: asyncio.Event) -> None:
        """Read, and choose keys, until `stop`: the main loop. Each partition's task commits beside it."""
        while not stop.is_set():
            for where, records in (await self._group.poll()).items():
                partition = self._group.partitions.get(where)
                if partition is None:
                    continue  # fetched before it was ours to read; it is read again
                before_bytes = partition.waiting_bytes
                for record in records:
                    partition.feed(as_record(record))
                self.metrics.records.inc(len(records))
                self.metrics.input_bytes.inc(partition.waiting_bytes - before_bytes)
                if partition.waiting >= _ENOUGH_RECORDS:
                    self._group.wake(where)
            for where, partition in list(self._group.partitions.items()):
                await self._group.caught_up(where, partition)  # control records at the end are no lag
            await self._room(stop)
            await asyncio.sleep(0)  # a poll may return at once, again and again: the other tasks must get their turn

    async def _room(self, stop: asyncio.Event) -> None:
        """Wait until what is read and not yet committed fits the limit again. A commit that hangs ends by itself."""
        while True:
            waiting_bytes = sum(partition.waiting_bytes for partition in self._group.partitions.values())
            self.metrics.waiting.set(waiting_bytes)
            self.health.last_turn_s = self._clock()
            if stop.is_set() or waiting_bytes <= self.settings.max_waiting_mb * 1_000_000:
                return
            for where in self._group.partitions:
                self._group.wake(where)
            await asyncio.sleep(_LOOK_AGAIN_S)

    # What a membership needs (`membership.Application`).

    def new_partition(self, where: TopicPartition, changelog: Changelog) -> RoutedPartition:
        """Return the state of a partition of which nothing is known yet."""
        shape = known_shape(self.settings.shape)
        return RoutedPartition(where.topic, where.partition, self.settings.key_order, shape, changelog)

    async def input_recreated(self, partition: RoutedPartition) -> None:
        """Do nothing: of a topic that is no more, nothing is left to be done."""

    def started(self, where: TopicPartition, partition: RoutedPartition) -> None:
        """Say that a partition is ours."""
        log.info("partition_taken_over", partition=where.partition, position=partition.position)

    def stopped(self, where: TopicPartition) -> None:
        """Do nothing: partitions share no limits but the one of `_room`."""

    # What a task needs (`partition_task.Publisher`).

    async def compose(
        self,
        partition: RoutedPartition,
        pending: RecordCommit,
        *,
        small: bool,  # noqa: ARG002 - a record is as small as it came
    ) -> list[Bulk]:
        """Return the records of the transaction."""
        return [Bulk(self.settings.output_topic, pending.records, without_key=partition.number)]

    def committed(self, pending: RecordCommit) -> None:
        """Count what a transaction wrote: before it was committed, nobody could see it."""
        for kind, count in pending.kinds.items():
            self.metrics.routed.labels(kind).inc(count)
        for reason, count in pending.undecodable.items():
            self.metrics.undecodable.labels(reason).inc(count)
        self.metrics.mixed.inc(pending.mixed)
        self.metrics.routed_bytes.inc(pending.size_bytes)
