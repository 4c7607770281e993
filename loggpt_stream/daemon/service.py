"""The daemon: Kafka in, sessions, one scorer thread, alerts out. At-least-once, with stable alert ids.

One event loop reads, decodes, gathers and publishes; one thread scores. A partition's committed offset never passes the
first line of a session that is open or unscored (`Partition.committable`), so a crash loses nothing: what was in memory
is read again, and an alert that is published twice has the same `event.id`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final

import torch
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import (
    CommitFailedError,
    IllegalStateError,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
)

from loggpt_stream.daemon.alert import AlertWriter, Judged
from loggpt_stream.daemon.batching import Closed, Waiting
from loggpt_stream.daemon.drift_report import DriftReport
from loggpt_stream.daemon.early import EarlyLooks
from loggpt_stream.daemon.health import Health, serve
from loggpt_stream.daemon.metrics import Metrics
from loggpt_stream.daemon.partition import Partition
from loggpt_stream.daemon.publisher import Publisher
from loggpt_stream.lines.record import Record, UndecodableError
from loggpt_stream.lines.sessionizer import Sessionizer
from loggpt_stream.logs import get_logger
from loggpt_stream.model.calibration import Judge
from loggpt_stream.model.gpt import choose_device

if TYPE_CHECKING:
    from collections.abc import Collection, Coroutine, Iterable

    from loggpt_stream.daemon.settings import DaemonSettings
    from loggpt_stream.lines.session import Session
    from loggpt_stream.model.bundle import Bundle
    from loggpt_stream.model.calibration import Calibration

log = get_logger(__name__)

_POLL_MS: Final = 200
_POLL_RECORDS: Final = 500
_TURN_S: Final = 2.0
_WATCH_EVERY_S: Final = 3.0
_ANSWER_WITHIN_S: Final = 10.0
_MAX_BACKOFF_S: Final = 30.0
_STOP_WITHIN_S: Final = 5.0

Clock = Callable[[], float]


class Daemon(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka is untyped
    """One process of the consumer group, from start to SIGTERM."""

    def __init__(self, settings: DaemonSettings, bundle: Bundle, clock: Clock = time.time) -> None:
        """Load the model. `bundle` must be calibrated. Raises `UserError` for a device that is not there."""
        if bundle.calibration is None:
            raise ValueError("the daemon needs a calibrated bundle")
        self.settings = settings
        self.metrics = Metrics()
        self.health = Health(last_turn_s=clock())
        self._bundle = bundle
        self._calibration: Calibration = bundle.calibration
        self._clock = clock
        self._scorer = bundle.scorer(choose_device(settings.device), batch_tokens=settings.batch_tokens)
        self._masks = bundle.masks()
        self._drift = DriftReport(self.metrics)
        self._waiting = Waiting(batch_tokens=settings.batch_tokens, batch_wait_s=settings.batch_wait_s)
        self._partitions: dict[TopicPartition, Partition] = {}
        self._deliveries: set[asyncio.Task[None]] = set()
        self._begun: set[tuple[TopicPartition, int | None]] = set()
        self._pending = 0
        self._paused = False
        # These live from `run` to its end.
        self._consumer: Any
        self._publisher: Publisher
        self._early: EarlyLooks
        self._thread: ThreadPoolExecutor
        self._tasks: asyncio.TaskGroup

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, then finish what is closed and commit. Raises what ends the daemon otherwise."""
        settings = self.settings
        if settings.threads:
            torch.set_num_threads(settings.threads)
        client = settings.kafka.client_options()
        async with AsyncExitStack() as lifetimes:
            port = lifetimes.enter_context(
                serve(settings.http_host, settings.http_port, self.metrics.registry, self.health, self._clock)
            )
            log.info(
                "daemon_starting",
                bundle=str(self._bundle.path),
                model=self._bundle.model_fingerprint,
                device=str(self._scorer.device),
                http_port=port,
                input_topic=settings.input_topic,
            )
            producer = await self._connected(
                lambda: AIOKafkaProducer(**client, acks="all", compression_type="zstd", linger_ms=5), stop
            )
            lifetimes.push_async_callback(_stop, producer)
            self._consumer = await self._connected(
                lambda: AIOKafkaConsumer(
                    **client,
                    group_id=settings.group,
                    enable_auto_commit=False,
                    # Where to begin, and what was lost, is for us to decide and to say.
                    auto_offset_reset="none",
                    session_timeout_ms=30_000,
                ),
                stop,
            )
            lifetimes.push_async_callback(_stop, self._consumer)
            if stop.is_set():
                return
            self._publisher = Publisher(producer, settings, AlertWriter(self._bundle, settings.cluster), self.metrics)
            self._thread = lifetimes.enter_context(ThreadPoolExecutor(1, thread_name_prefix="scorer"))
            self._early = EarlyLooks(
                self._scorer,
                self._calibration,
                self._partitions,
                self._publisher.early,
                self._thread,
                every_s=settings.early_every_s,
                clock=self._clock,
            )
            await self._work(stop)

    async def _work(self, stop: asyncio.Event) -> None:
        self._consumer.subscribe([self.settings.input_topic], listener=self)
        async with asyncio.TaskGroup() as self._tasks:
            beside = [self._tasks.create_task(each) for each in (self._score(), self._commit_often(), self._watch())]
            await self._read(stop)
            log.info("daemon_stopping", pending_sessions=self._pending)
            self.health.stopping = True
            await self._drain()
            # What is not delivered by now is held back from the commit, and read again at the next start.
            for task in (*beside, *self._deliveries):
                task.cancel()
        await self._commit(self._committable())
        log.info("daemon_stopped", open_sessions=sum(p.sessionizer.open_sessions for p in self._partitions.values()))

    async def _read(self, stop: asyncio.Event) -> None:
        """Read, decode and gather until `stop`: the main loop."""
        while not stop.is_set():
            batches = await self._poll()
            now_s = self._clock()
            for where, records in batches.items():
                partition = self._partition(where)
                for record in map(_record, records):
                    try:
                        closed = partition.feed(record, now_s)
                    except UndecodableError as error:
                        self._reject(partition, record, error)
                    else:
                        self._hand_over(partition, closed, now_s)
                self.metrics.records.inc(len(records))
            for where, partition in self._partitions.items():
                closed = partition.tick(
                    now_s, caught_up=self._caught_up(where, partition), clock_speed=self.settings.clock_speed
                )
                self._hand_over(partition, closed, now_s)
            self._throttle()
            self._observe(now_s)
            await asyncio.sleep(0)  # a poll may return at once, again and again: the other tasks must get their turn

    async def _poll(self) -> dict[TopicPartition, list[Any]]:
        """Return the next records, or none after a moment: while a rebalance is on, getmany minds no timeout."""
        try:
            async with asyncio.timeout(_TURN_S):
                records: dict[TopicPartition, list[Any]] = await self._consumer.getmany(
                    timeout_ms=_POLL_MS, max_records=_POLL_RECORDS
                )
        except TimeoutError:
            return {}
        except NoOffsetForPartitionError as error:
            await self._begin(error.args[0], lost_from=None)
            return {}
        except OffsetOutOfRangeError as error:
            for where, offset in error.args[0].items():
                await self._begin(where, lost_from=offset)
            return {}
        return records

    async def _begin(self, where: TopicPartition, *, lost_from: int | None) -> None:
        """Begin a partition that has no committed offset, or whose next record (`lost_from`) is gone.

        A gap is never jumped in silence: reading goes on at the oldest record that is left, and the log and
        `loggpt_records_lost_total` say what is missing.
        """
        if (where, lost_from) in self._begun:
            return  # aiokafka looked again before it was told where to go on
        latest = lost_from is None and self.settings.start == "latest"
        find = self._consumer.end_offsets if latest else self._consumer.beginning_offsets
        try:
            async with asyncio.timeout(_ANSWER_WITHIN_S):
                offset: int = (await find([where]))[where]
            self._consumer.seek(where, offset)
        except (KafkaError, TimeoutError) as error:
            # Revoked meanwhile, or the broker is away: as long as there is no position, aiokafka asks us again.
            log.warning("offset_lookup_failed", partition=where.partition, error=repr(error))
            return
        self._begun.add((where, lost_from))
        if lost_from is None:
            # So that a crash before the first commit does not skip what came in between.
            await self._commit({where: offset})
            return
        log.error(
            "records_lost",
            partition=where.partition,
            from_offset=lost_from,
            to_offset=offset,
            remedy="longer retention of the input topic, or a daemon that is down for less long",
        )
        self.metrics.records_lost.inc(max(0, offset - lost_from))

    def _partition(self, where: TopicPartition) -> Partition:
        """Return the state of a partition; new, where records come before the assignment was announced."""
        if where not in self._partitions:
            sessionizer = Sessionizer(self._bundle.meaning.session_rules, self._masks)
            judge = Judge(self._calibration, self.settings.drift)
            self._partitions[where] = Partition(
                where.topic, where.partition, sessionizer, judge, shape=self.settings.shape
            )
            # The limits are the process's; each partition gets its share.
            share = len(self._partitions)
            for partition in self._partitions.values():
                partition.sessionizer.max_open_sessions = max(1, self.settings.max_open_sessions // share)
                partition.sessionizer.max_open_lines = max(1, self.settings.max_open_lines // share)
        return self._partitions[where]

    def _caught_up(self, where: TopicPartition, partition: Partition) -> bool:
        """Tell whether everything that the newest fetch saw of the partition has been read.

        Where nothing is fetched (reading is paused, or the broker is away) nobody can tell: lines may be waiting there,
        and time must not close the sessions that they belong to.
        """
        if partition.position is None or self._paused or not self.health.broker_up:
            return False
        if where not in self._consumer.assignment():
            return False
        end: int | None = self._consumer.highwater(where)
        return end is not None and partition.position >= end

    def _hand_over(self, partition: Partition, closed: Iterable[Session], now_s: float) -> None:
        """Queue closed sessions for the scorer; their first offsets stay held until they are published."""
        for session in closed:
            self._pending += 1
            hold = partition.hold(session.first_offset)
            self._waiting.put(Closed(partition, session, self._scorer.prepare(session), hold, now_s))
            self.metrics.sessions_closed.labels(session.kind, session.close_reason).inc()

    def _reject(self, partition: Partition, record: Record, error: UndecodableError) -> None:
        """Send a record without log event to the dead letter topic; its offset stays held until it is there."""
        self._pending += 1
        hold = partition.hold(record.offset)

        async def deliver() -> None:
            await self._publisher.dead_letter(record, error)
            partition.release(hold)
            self._pending -= 1

        task = self._tasks.create_task(deliver())
        self._deliveries.add(task)
        task.add_done_callback(self._deliveries.discard)

    async def _score(self) -> None:
        """Score batches on the thread and publish what comes of them; in between, look at open sessions."""
        loop = asyncio.get_running_loop()
        while True:
            await self._early.look_until_closed(self._waiting)
            batch = await self._waiting.batch()
            started_s = loop.time()
            scores = await loop.run_in_executor(
                self._thread, self._scorer.score_prepared, [closed.prepared for closed in batch]
            )
            self.metrics.batch_sessions.observe(len(batch))
            self.metrics.score_seconds.observe(loop.time() - started_s)
            judged = []
            for closed, score in zip(batch, scores, strict=True):
                session = closed.session
                verdict = closed.partition.judge.judge(session.kind, score.statistics, late=session.late)
                early = self._early.ended(closed.partition, session)
                origin = closed.partition.topic, closed.partition.number
                judged.append(Judged(*origin, session, score, verdict, early=early))
            await self._publisher.judged(judged, self._clock())
            for closed in batch:
                closed.partition.release(closed.hold)
                self.metrics.publish_seconds.observe(self._clock() - closed.closed_at_s)
            self._pending -= len(batch)

    def _throttle(self) -> None:
        """Stop fetching while the scorer is behind; keep polling, so that the group knows we are there."""
        if not self._paused and self._pending >= self.settings.max_pending_sessions:
            self._consumer.pause(*self._consumer.assignment())
            self._paused = True
            log.info("reading_paused", pending_sessions=self._pending)
        elif self._paused and self._pending <= self.settings.max_pending_sessions // 2:
            self._consumer.resume(*self._consumer.assignment())
            self._paused = False
            log.info("reading_resumed", pending_sessions=self._pending)

    def _observe(self, now_s: float) -> None:
        """Bring health and gauges up to date."""
        partitions = self._partitions.values()
        for partition in partitions:
            for fate, count in partition.sessionizer.fates.items():
                self.metrics.lines.labels(fate).inc(count)
            partition.sessionizer.fates.clear()
            self._drift.observe(partition.number, partition.judge)
        self.metrics.sessions_open.set(sum(partition.sessionizer.open_sessions for partition in partitions))
        self.metrics.lines_open.set(sum(partition.sessionizer.open_lines for partition in partitions))
        self.metrics.sessions_pending.set(self._pending)
        self.health.last_turn_s = now_s

    async def _commit_often(self) -> None:
        while True:
            await asyncio.sleep(self.settings.commit_interval_s)
            await self._commit(self._committable())

    def _committable(self) -> dict[TopicPartition, int]:
        """Return how far each partition may be forgotten."""
        offsets = {where: partition.committable for where, partition in self._partitions.items()}
        return {where: offset for where, offset in offsets.items() if offset is not None}

    async def _commit(self, known: dict[TopicPartition, int]) -> None:
        """Commit these offsets. A failure is said; the next commit makes up for it."""
        if not known:
            return
        try:
            async with asyncio.timeout(_ANSWER_WITHIN_S):
                await self._consumer.commit(known)
            self.metrics.commits.labels("ok").inc()
        except (CommitFailedError, IllegalStateError) as error:
            # The group is rebalancing: what we held is read again by whoever owns it next.
            self.metrics.commits.labels("rebalanced").inc()
            log.info("commit_skipped", error=repr(error))
        except (KafkaError, TimeoutError) as error:
            self.metrics.commits.labels("failed").inc()
            log.warning("commit_failed", error=repr(error))

    async def _watch(self) -> None:
        """Ask the broker for the partitions' ends: the lag, and whether it answers at all."""
        while True:
            try:
                async with asyncio.timeout(_ANSWER_WITHIN_S):
                    if self._partitions:
                        ends = await self._consumer.end_offsets(list(self._partitions))
                    elif self.settings.input_topic in await self._consumer.topics():
                        ends = {}
                    else:
                        log.warning("input_topic_missing", topic=self.settings.input_topic, remedy="run doctor")
                        ends = {}
            except (KafkaError, TimeoutError, OSError) as error:
                self._broker(up=False, error=repr(error))
            else:
                self._broker(up=True)
                for where, end in ends.items():
                    self._measure_lag(where, end)
            await asyncio.sleep(_WATCH_EVERY_S)

    def _measure_lag(self, where: TopicPartition, end: int) -> None:
        partition = self._partitions.get(where)
        if partition is not None and partition.position is not None:
            label = str(where.partition)
            self.metrics.lag.labels(label).set(max(0, end - partition.position))
            self.metrics.watermark.labels(label).set(partition.sessionizer.watermark_s)

    def _broker(self, *, up: bool, error: str = "") -> None:
        if up and not self.health.broker_up:
            log.info("broker_available", bootstrap=self.settings.kafka.bootstrap)
        elif not up:
            log.warning("broker_unavailable", bootstrap=self.settings.kafka.bootstrap, error=error)
        self.health.broker_up = up
        self.metrics.broker_up.set(up)

    async def _drain(self) -> None:
        """Wait, at most the grace time, until every closed session is scored and published."""
        deadline_s = asyncio.get_running_loop().time() + self.settings.shutdown_grace_s
        while self._pending and asyncio.get_running_loop().time() < deadline_s:  # noqa: ASYNC110 - two tasks lower it
            await asyncio.sleep(0.05)
        if self._pending:
            log.warning("drain_timed_out", pending_sessions=self._pending)
            self._scorer.abandoned = True  # a long session is scored in many batches: not the rest of them

    async def _connected(self, make: Callable[[], Any], stop: asyncio.Event) -> Any:  # noqa: ANN401 - aiokafka is untyped
        """Return a started client, however long the broker is away; None where `stop` was set first."""
        delay_s = 1.0
        while not stop.is_set():
            client = make()
            try:
                if await self._unless(stop, client.start()):
                    self._broker(up=True)
                    return client
            except (KafkaError, OSError) as error:
                self._broker(up=False, error=repr(error))
                log.info("broker_retry", retry_in_s=delay_s)
            await _stop(client)
            await self._unless(stop, asyncio.sleep(delay_s))
            delay_s = min(2 * delay_s, _MAX_BACKOFF_S)
        return None

    async def _unless(self, stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
        """Do `work` unless `stop` is set first; tell whether it was done. Waiting is no stall: the probes are told."""
        task, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
        try:
            while not (task.done() or stopping.done()):
                self.health.last_turn_s = self._clock()
                await asyncio.wait({task, stopping}, timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                await task
            return task.done()
        finally:
            for each in (task, stopping):
                each.cancel()

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """Commit what is finished and forget the rest: the next owner reads it again (aiokafka's callback)."""
        if revoked:
            await self._commit(self._committable())
            self._partitions.clear()
            self.health.partitions = None
            log.info("partitions_revoked", partitions=sorted(where.partition for where in revoked))

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """Begin each partition at its committed offset (aiokafka's callback)."""
        for where in sorted(assigned):
            self._partition(where)
        self._begun.clear()
        self._paused = False
        self.health.partitions = len(assigned)
        self.metrics.rebalances.inc()
        self.metrics.lag.clear()
        log.info("partitions_assigned", partitions=sorted(where.partition for where in assigned))


async def _stop(client: Any) -> None:  # noqa: ANN401 - aiokafka is untyped
    if client is None:
        return
    try:
        async with asyncio.timeout(_STOP_WITHIN_S):
            await client.stop()
    except TimeoutError:
        log.warning("client_left_open", client=type(client).__name__)


def _record(record: Any) -> Record:  # noqa: ANN401 - aiokafka is untyped
    """Return an aiokafka record as ours."""
    return Record(
        value=record.value,
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        timestamp_s=record.timestamp / 1000,
        key=record.key,
        headers=record.headers,
    )
