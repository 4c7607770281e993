"""One member of a consumer group whose partitions are owned exactly once: from joining the group to leaving it.

The group says who has which partition; the state topic says who may write for it. This keeps the two together: each
assigned partition is paused, and has a `PartitionTask` that restores it, has it read from the position in the state
topic, and lets go of it when it is revoked. The daemon and `loggpt-stream route` are such members.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol

from aiokafka import ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError, NoOffsetForPartitionError, OffsetOutOfRangeError

from loggpt_stream.errors import UserError
from loggpt_stream.kafka.changelog import Changelog
from loggpt_stream.kafka.connection import explain
from loggpt_stream.kafka.group_versions import GroupVersions
from loggpt_stream.kafka.outage import Outage
from loggpt_stream.kafka.partition_task import PartitionT, PartitionTask, PendingT, Publisher, TaskOptions
from loggpt_stream.kafka.start_position import ANSWER_WITHIN_S, find_position
from loggpt_stream.kafka.topics import refusal
from loggpt_stream.kafka.transactions import stop_client
from loggpt_stream.kafka.unreadable import explain_unreadable
from loggpt_stream.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Collection, Coroutine

    from loggpt_stream.kafka.changelog import StateFormats
    from loggpt_stream.kafka.clients import Clients
    from loggpt_stream.kafka.health import Health
    from loggpt_stream.kafka.metrics import MemberMetrics
    from loggpt_stream.kafka.record_reader import RecordReader
    from loggpt_stream.kafka.settings import MemberSettings

log = get_logger(__name__)

_POLL_MS: Final = 200
_POLL_RECORDS: Final = 500
_TURN_S: Final = 2.0
# The broker answers a fetch within half a second, records or not.
_FRESH_S: Final = 3.0
_WATCH_EVERY_S: Final = 3.0
_MAX_BACKOFF_S: Final = 30.0
_LET_GO_WITHIN_S: Final = 10.0
# A commit gives up before the broker does, so that it is this side that takes over anew.
_COMMIT_SHARE: Final = 0.8

# A process that is gone for ten times as long as the group waits for it was taken away.
_SETTLED_AFTER_TIMEOUTS: Final = 10

Clock = Callable[[], float]


class Application(Protocol[PartitionT]):
    """What a member does with the partitions that it owns: the daemon, or the router.

    state_formats: how what it stores is read and written in older formats.
    """

    state_formats: StateFormats

    def new_partition(self, where: TopicPartition, changelog: Changelog) -> PartitionT:
        """Return the state of a partition of which nothing is known yet."""

    async def input_recreated(self, partition: PartitionT) -> None:
        """Finish what came of the input topic: it was deleted and created anew."""

    def started(self, where: TopicPartition, partition: PartitionT) -> None:
        """Be told that a partition was restored: its records come next."""

    def stopped(self, where: TopicPartition) -> None:
        """Be told that no more records of a partition come."""


class Membership(ConsumerRebalanceListener, Generic[PartitionT, PendingT]):  # type: ignore[misc]  # aiokafka is untyped
    """The assigned partitions of one process, each with a task of its own.

    partitions: those that are read: their tasks run. paused: `pause` said so, and nothing is fetched. committed: of the
    newest transactions of partitions, the offset of the next record, until the group was told of it.
    """

    def __init__(
        self,
        settings: MemberSettings,
        clients: Clients,
        records: RecordReader,
        *,
        application: Application[PartitionT],
        publisher: Publisher[PartitionT, PendingT],
        metrics: MemberMetrics,
        health: Health,
        clock: Clock,
    ) -> None:
        """Start outside the group. `records`: reads records of the input again; `close` closes it too."""
        self.partitions: dict[TopicPartition, PartitionT] = {}
        self.paused = False
        self.committed: dict[TopicPartition, int] = {}
        self._settings = settings
        self._clients = clients
        self._records = records
        self._application = application
        self._publisher = publisher
        self._metrics = metrics
        self._health = health
        self._clock = clock
        self._outage = Outage(settings.kafka)
        self._versions = GroupVersions(settings.state_format, _SETTLED_AFTER_TIMEOUTS * settings.session_timeout_s)
        self._assigned: dict[TopicPartition, tuple[PartitionTask[PartitionT, PendingT], asyncio.Task[None]]] = {}
        self._leaving = False
        self._consumer: Any = None
        self._group: asyncio.TaskGroup  # from `join` on

    # From start to end.

    async def connect(self, stop: asyncio.Event) -> bool:
        """Wait for the broker, however long it is away; False where `stop` was set first.

        Raises `UserError` in the doctor's words where topics are missing, or cannot keep what they have to.
        """
        delay_s = 1.0
        while self._consumer is None and not stop.is_set():
            client = self._clients.group_consumer()
            try:
                if await self._unless(stop, client.start()):
                    self._broker_answers()
                    self._consumer = client
                    break
            except (KafkaError, OSError) as error:
                await self._unless(stop, self._broker_away(error))
                log.info("broker_retry", retry_in_s=delay_s)
            await stop_client(client)
            await self._unless(stop, asyncio.sleep(delay_s))
            delay_s = min(2 * delay_s, _MAX_BACKOFF_S)
        while not stop.is_set():
            try:
                wrong = await refusal(self._settings)
            except (KafkaError, OSError, TimeoutError) as error:
                await self._unless(stop, self._broker_away(error))
                await self._unless(stop, asyncio.sleep(1.0))
                continue
            if wrong:
                raise UserError(wrong)
            return True
        return False

    def join(self, group: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        """Join the group, and return the tasks that go on until they are cancelled; what fails ends `group`."""
        self._group = group
        self._consumer.subscribe([self._settings.input_topic], listener=self)
        return [group.create_task(self._advise()), group.create_task(self._watch())]

    async def leave(self) -> None:
        """Commit once more, let go of every partition, and tell the group where we came to."""
        self._leaving = True
        await self._let_go(list(self._assigned))
        await self._advise_group()

    async def close(self) -> None:
        """Disconnect."""
        await self._records.close()
        await stop_client(self._consumer)

    # What the program's main loop does.

    async def poll(self) -> dict[TopicPartition, list[Any]]:
        """Return the next records, or none after a moment: while a rebalance is on, getmany minds no timeout."""
        try:
            async with asyncio.timeout(_TURN_S):
                records: dict[TopicPartition, list[Any]] = await self._consumer.getmany(
                    timeout_ms=_POLL_MS, max_records=_POLL_RECORDS
                )
        except (TimeoutError, NoOffsetForPartitionError):
            return {}  # a partition that is not restored yet has no position: `start_reading` gives it one
        except OffsetOutOfRangeError as error:
            for where in set(error.args[0]) & set(self._assigned):
                self._assigned[where][0].lose(error)
            return {}
        except UnicodeDecodeError as error:
            # aiokafka gives no record of which a header's name is no text, nor any after it.
            known = {where: self.partitions[where].position for where in self._read_now()}
            positions = {where: at for where, at in known.items() if at is not None}
            topic = self._settings.input_topic
            raise UserError(await explain_unreadable(self._consumer, topic, positions, error)) from error
        except KafkaError as error:
            raise UserError(
                f"reading as a member of group {self._settings.group} failed: {explain(error)} If another process has "
                "the same instance_id, give each its own."
            ) from error
        return records

    async def caught_up(self, where: TopicPartition, partition: PartitionT) -> bool:
        """Tell whether everything that the newest fetch saw of the partition has been read.

        Where nothing has been fetched of late (reading is paused, the broker is away) nobody can tell: lines may be
        waiting there, and time must not close the sessions that they belong to.
        """
        if partition.position is None or self.paused or not self._health.broker_up:
            return False
        if where not in self._consumer.assignment():
            return False
        end: int | None = self._consumer.last_stable_offset(where)
        fetched_ms: int | None = self._consumer.last_poll_timestamp(where)
        if end is None or end < 0 or fetched_ms is None:
            return False
        if time.time() - fetched_ms / 1000 > _FRESH_S:
            return False  # the end of long ago: this process stood still, or the broker does
        if partition.position < end:
            # Behind the last record may stand control records, which only the consumer knows of.
            try:
                async with asyncio.timeout(_TURN_S):
                    position: int = await self._consumer.position(where)
            except (KafkaError, TimeoutError):
                return False
            if position >= end and self.partitions.get(where) is partition:
                partition.skip_to(position)
        return partition.position >= end

    def wake(self, where: TopicPartition) -> None:
        """Commit soon: something waits."""
        assigned = self._assigned.get(where)
        if assigned is not None:
            assigned[0].wake()

    def pause(self) -> None:
        """Stop fetching; keep polling, so that the group knows we are there."""
        self._consumer.pause(*self._read_now())
        self.paused = True

    def resume(self) -> None:
        """Fetch again."""
        self._consumer.resume(*self._read_now())
        self.paused = False

    def _read_now(self) -> set[TopicPartition]:
        assigned: set[TopicPartition] = self._consumer.assignment()
        return assigned & set(self.partitions)

    def state_format(self) -> int | None:
        """Return the format in which state is written as of now; None: the one that it is in."""
        return self._versions.state_format()

    # What a task needs (`partition_task.Reading`).

    async def start_reading(self, where: TopicPartition, partition: PartitionT) -> None:
        """Read a partition that was restored, from its position on. Raises where it is no longer assigned to us."""
        await find_position(
            self._consumer,
            self._records,
            where,
            partition,
            start=self._settings.start,
            metrics=self._metrics,
            input_recreated=partial(self._application.input_recreated, partition),
        )
        async with asyncio.timeout(ANSWER_WITHIN_S):
            # Only a member of the group's current generation can commit.
            await self._consumer.commit({where: partition.position})
        self._consumer.seek(where, partition.position)
        self.partitions[where] = partition
        self._application.started(where, partition)
        if not self.paused:
            self._consumer.resume(where)
        self._tell_ready()

    def stop_reading(self, where: TopicPartition, partition: PartitionT) -> None:
        """Read no more of a partition."""
        if self.partitions.get(where) is not partition:
            return
        del self.partitions[where]
        self._application.stopped(where)
        if where in self._consumer.assignment():
            self._consumer.pause(where)
            self._metrics.partitions_lost.inc()

    def broker_is_up(self) -> bool:
        """Tell whether the broker answered the last question."""
        return self._health.broker_up

    # What goes on beside the main loop.

    async def _advise(self) -> None:
        while True:
            await asyncio.sleep(self._settings.commit_interval_s)
            await self._advise_group()

    async def _advise_group(self) -> None:
        """Commit the positions to the group as well: lag tools look there. Nothing depends on it."""
        assigned = self._consumer.assignment()
        new = {where: offset for where, offset in self.committed.items() if where in assigned}
        if not new:
            return
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                await self._consumer.commit(new)
        except (KafkaError, TimeoutError) as error:
            log.info("group_not_advised", error=repr(error))
        else:
            for where, offset in new.items():
                if self.committed.get(where) == offset:
                    del self.committed[where]

    async def _watch(self) -> None:
        """Ask the broker for the partitions' ends: the lag, and whether it answers at all."""
        while True:
            try:
                async with asyncio.timeout(ANSWER_WITHIN_S):
                    if self.partitions:
                        ends = await self._consumer.end_offsets(list(self.partitions))
                    elif self._settings.input_topic in await self._consumer.topics():
                        ends = {}
                    else:
                        log.warning("input_topic_missing", topic=self._settings.input_topic, remedy="run doctor")
                        ends = {}
            except (KafkaError, TimeoutError, OSError) as error:
                ends = {}
                await self._broker_away(error)
            else:
                self._broker_answers()
            self._see_progress(ends, self._clock())
            await asyncio.sleep(_WATCH_EVERY_S)

    def _see_progress(self, ends: dict[TopicPartition, int], now_s: float) -> None:
        """Measure the lag, and tell the liveness probe what gets on. `ends`: none where the broker did not answer."""
        progress, answers = self._health.progress, self._health.broker_up
        progress.keep_only(self._assigned)
        for where in self._assigned:
            partition, end = self.partitions.get(where), ends.get(where)
            position = None if partition is None else partition.position
            waits = answers and partition is None
            if position is not None and end is not None:
                self._metrics.lag.labels(str(where.partition)).set(max(0, end - position))
                waits = end > position and not self.paused
            what = "is assigned and not taken over" if partition is None else "is behind and not read"
            progress.see(where, f"partition {where.partition} {what}", position, now_s, waits=waits)
        for what, since_s in progress.news(now_s):
            log.error("no_progress", what=what, since=datetime.fromtimestamp(since_s, UTC).isoformat())

    def _broker_answers(self) -> None:
        if not self._health.broker_up:
            log.info("broker_available", bootstrap=self._settings.kafka.bootstrap)
        self._outage.over()
        self._health.broker_up = True
        self._metrics.broker_up.set(1)

    async def _broker_away(self, error: BaseException) -> None:
        self._health.broker_up = False
        self._metrics.broker_up.set(0)
        await self._outage.say(error)

    async def _unless(self, stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
        """Do `work` unless `stop` is set first; tell whether it was done. Waiting is no stall: the probes are told."""
        task, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
        try:
            while not (task.done() or stopping.done()):
                self._health.last_turn_s = self._clock()
                await asyncio.wait({task, stopping}, timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                await task
            return task.done()
        finally:
            for each in (task, stopping):
                each.cancel()

    # The group's callbacks.

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """Let go of partitions (aiokafka's callback; no heartbeat is sent while it runs)."""
        if revoked:
            self._health.partitions = None
            await self._let_go(revoked)
            log.info("partitions_revoked", partitions=sorted(where.partition for where in revoked))

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """Have each partition taken over (aiokafka's callback; no heartbeat is sent while it runs)."""
        # Until it is known where to begin, nothing may be read.
        self._consumer.pause(*assigned)
        # Before anything is taken over: its state may have to be written so that others can read it.
        await self._versions.ask(self._settings.kafka, self._settings.group)
        if self._leaving:
            return  # on our way out: nobody would end what began now
        await self._let_go(assigned)
        self.paused = False
        self._metrics.rebalances.inc()
        self._metrics.lag.clear()
        log.info("partitions_assigned", partitions=sorted(where.partition for where in assigned))
        for where in sorted(assigned):
            task = self._new_task(where)
            self._assigned[where] = task, self._group.create_task(task.run())
        self._tell_ready()

    def _new_task(self, where: TopicPartition) -> PartitionTask[PartitionT, PendingT]:
        settings = self._settings
        options = TaskOptions(
            interval_s=settings.commit_interval_s,
            commit_within_s=_COMMIT_SHARE * settings.transaction_timeout_s,
        )
        return PartitionTask(
            where,
            new_changelog=partial(
                Changelog,
                f"{settings.group} {settings.input_topic}",
                self._application.state_formats,
                self.state_format,
            ),
            new_partition=self._application.new_partition,
            open_log=partial(self._clients.log_of, where.partition),
            publisher=self._publisher,
            reading=self,
            metrics=self._metrics,
            options=options,
        )

    async def _let_go(self, revoked: Collection[TopicPartition]) -> None:
        """Commit once more, without waiting for what is under way, and forget: the next owner finds the state."""
        closed = {where: self._assigned.pop(where) for where in revoked if where in self._assigned}
        for task, _ in closed.values():
            task.close()
        running = [run for _, run in closed.values()]
        if running:
            _, late = await asyncio.wait(running, timeout=_LET_GO_WITHIN_S)
            for run in late:
                run.cancel()

    def _tell_ready(self) -> None:
        if all(where in self.partitions for where in self._assigned):
            self._health.partitions = len(self.partitions)
