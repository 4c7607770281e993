"""The daemon: Kafka in, sessions, one scorer thread, alerts out, each exactly once for `read_committed` readers.

One event loop reads, decodes, gathers and publishes; one thread scores. What a partition's sessions consist of is in
the state topic: one transaction writes alerts, what changed, and how far the input was read (`Owner`). A crash, a
rebalance or a lost broker at any moment leaves either all of that or nothing, and whoever has the partition next goes
on from there, having fenced whoever had it before.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final

import torch
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import (
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
)

from loggpt_stream.daemon.alert import AlertWriter, Judged
from loggpt_stream.daemon.batching import Closed, Waiting
from loggpt_stream.daemon.compose import Composer
from loggpt_stream.daemon.drift_report import DriftReport
from loggpt_stream.daemon.early import EarlyLooks
from loggpt_stream.daemon.health import Health, serve
from loggpt_stream.daemon.ledger import Ledger
from loggpt_stream.daemon.metrics import Metrics
from loggpt_stream.daemon.owner import Owner
from loggpt_stream.daemon.partition import Meaning, Partition, as_record
from loggpt_stream.daemon.raw_lines import RawLines
from loggpt_stream.daemon.tenure import Tenure
from loggpt_stream.daemon.topics import refusal
from loggpt_stream.daemon.transactions import TransactionalLog, stop_client
from loggpt_stream.errors import UserError
from loggpt_stream.logs import get_logger
from loggpt_stream.model.calibration import Judge
from loggpt_stream.model.gpt import choose_device

if TYPE_CHECKING:
    from collections.abc import Collection, Coroutine, Iterable

    from loggpt_stream.daemon.partition import Unsaved
    from loggpt_stream.daemon.settings import DaemonSettings
    from loggpt_stream.daemon.transactions import Outgoing
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
_LET_GO_WITHIN_S: Final = 10.0
# A commit gives up before the broker does, so that it is this side that takes over anew.
_COMMIT_SHARE: Final = 0.8

Clock = Callable[[], float]


class ScorerHungError(Exception):
    """A scoring batch did not end in time; its thread cannot be ended, so the process has to."""


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
        rules, mask_rules = bundle.meaning.session_rules, bundle.meaning.mask_rules
        self._meaning = Meaning(
            rules,
            bundle.masks(),
            fingerprint=hashlib.sha256(repr((rules, mask_rules)).encode()).hexdigest()[:16],
            make_judge=lambda: Judge(self._calibration, settings.drift),
            shape=settings.shape,
        )
        self._drift = DriftReport(self.metrics)
        self._waiting = Waiting(batch_tokens=settings.batch_tokens, batch_wait_s=settings.batch_wait_s)
        self._tenures: dict[TopicPartition, tuple[Tenure, asyncio.Task[None]]] = {}
        # Those that are read: taken over, and not yet let go.
        self._partitions: dict[TopicPartition, Partition] = {}
        self._committed: dict[TopicPartition, int] = {}
        self._paused = False
        # These live from `run` to its end.
        self._consumer: Any
        self._raw_lines: RawLines
        self._composer: Composer
        self._early: EarlyLooks
        self._thread: ThreadPoolExecutor
        self._tasks: asyncio.TaskGroup

    @property
    def _pending(self) -> int:
        return sum(len(partition.pending) for partition in self._partitions.values())

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, then finish what is closed and commit. Raises what ends the daemon otherwise."""
        settings = self.settings
        if settings.threads:
            torch.set_num_threads(settings.threads)
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
            self._consumer = await self._connected(self._group_consumer, stop)
            lifetimes.push_async_callback(stop_client, self._consumer)
            await self._refuse_wrong_topics(stop)
            if stop.is_set():
                return
            self._raw_lines = RawLines(settings.input_topic, self._reader, self._meaning.masks, settings.shape)
            lifetimes.push_async_callback(self._raw_lines.close)
            writer = AlertWriter(self._bundle, settings.cluster)
            self._composer = Composer(settings, writer, self._raw_lines, self._clock)
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="scorer")
            lifetimes.callback(self._thread.shutdown, wait=False, cancel_futures=True)
            self._early = EarlyLooks(
                self._scorer,
                self._calibration,
                self._partitions,
                self._announce,
                self._thread,
                every_s=settings.early_every_s,
            )
            await self._work(stop)

    async def _refuse_wrong_topics(self, stop: asyncio.Event) -> None:
        """Raise `UserError` in the doctor's words where topics are missing, or cannot keep what they have to."""
        while not stop.is_set():
            try:
                wrong = await refusal(self.settings)
            except (KafkaError, OSError, TimeoutError) as error:
                self._broker(up=False, error=repr(error))
                await self._unless(stop, asyncio.sleep(1.0))
                continue
            if wrong:
                raise UserError(wrong)
            return

    def _group_consumer(self) -> Any:  # noqa: ANN401 - aiokafka is untyped
        settings = self.settings
        timeout_ms = round(settings.session_timeout_s * 1000)
        return AIOKafkaConsumer(
            **settings.kafka.client_options(),
            group_id=settings.group,
            group_instance_id=settings.instance_id,
            enable_auto_commit=False,
            # Where to begin, and what was lost, is for us to decide and to say.
            auto_offset_reset="none",
            # The input may be written in transactions too (loggpt-stream route).
            isolation_level="read_committed",
            partition_assignment_strategy=(StickyPartitionAssignor,),
            session_timeout_ms=timeout_ms,
            heartbeat_interval_ms=timeout_ms // 10,
            rebalance_timeout_ms=2 * timeout_ms,
        )

    def _reader(self) -> Any:  # noqa: ANN401 - aiokafka is untyped
        return AIOKafkaConsumer(
            **self.settings.kafka.client_options(),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
        )

    def _producer(self, partition: int) -> Any:  # noqa: ANN401 - aiokafka is untyped
        settings = self.settings
        return AIOKafkaProducer(
            **settings.kafka.client_options(),
            transactional_id=f"{settings.group}-{settings.input_topic}-{partition}",
            transaction_timeout_ms=round(settings.transaction_timeout_s * 1000),
            acks="all",
            compression_type="zstd",
            linger_ms=1,
        )

    async def _work(self, stop: asyncio.Event) -> None:
        self._consumer.subscribe([self.settings.input_topic], listener=self)
        async with asyncio.TaskGroup() as self._tasks:
            beside = [self._tasks.create_task(each) for each in (self._score(), self._advise(), self._watch())]
            await self._read(stop)
            log.info("daemon_stopping", pending_sessions=self._pending)
            self.health.stopping = True
            await self._drain()
            open_sessions = sum(partition.sessionizer.open_sessions for partition in self._partitions.values())
            await self._let_go(list(self._tenures))
            for task in beside:
                task.cancel()
        await self._advise_group()
        log.info("daemon_stopped", open_sessions=open_sessions)

    async def _read(self, stop: asyncio.Event) -> None:
        """Read, decode and gather until `stop`: the main loop."""
        while not stop.is_set():
            batches = await self._poll()
            now_s = self._clock()
            for where, records in batches.items():
                partition = self._partitions.get(where)
                if partition is None:
                    continue  # fetched before it was ours to read; it is read again
                for record in map(as_record, records):
                    self._hand_over(partition, partition.feed(record, now_s), now_s)
                    self.metrics.input_bytes.inc(len(record.value or b""))
                self.metrics.records.inc(len(records))
            for where, partition in list(self._partitions.items()):
                caught_up = await self._caught_up(where, partition)
                closed = partition.tick(now_s, caught_up=caught_up, clock_speed=self.settings.clock_speed)
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
        except (TimeoutError, NoOffsetForPartitionError):
            return {}  # a partition that has not been taken over yet has no position: `begin` gives it one
        except OffsetOutOfRangeError as error:
            for where in set(error.args[0]) & set(self._tenures):
                self._tenures[where][0].lose(error)
            return {}
        return records

    # What a tenure needs (`tenure.Host`).

    def owner(self, where: TopicPartition, *, small: bool) -> Owner:
        """Return an owner of a partition that has not taken over yet."""
        settings = self.settings
        ledger = Ledger(f"{settings.group} {settings.input_topic}")
        partition = Partition(where.topic, where.partition, self._meaning, ledger)
        state = TopicPartition(settings.state_topic, where.partition)

        async def compose(unsaved: Unsaved) -> list[Outgoing]:
            return await self._composer.compose(partition, unsaved, small=small)

        place = TransactionalLog(state, lambda: self._producer(where.partition), self._reader)
        return Owner(place, ledger, partition, compose)

    async def begin(self, where: TopicPartition, partition: Partition) -> None:
        """Read a partition that was taken over, from its position on. Raises where it is no longer assigned to us."""
        await self._find_position(where, partition)
        async with asyncio.timeout(_ANSWER_WITHIN_S):
            # Only a member of the group's current generation can commit.
            await self._consumer.commit({where: partition.position})
        self._consumer.seek(where, partition.position)
        self._partitions[where] = partition
        self._share_limits()
        for session in partition.pending.values():
            self._wait(partition, session, self._clock())
        if not self._paused:
            self._consumer.resume(where)
        log.info(
            "partition_taken_over",
            partition=where.partition,
            position=partition.position,
            open_sessions=partition.sessionizer.open_sessions,
            pending_sessions=len(partition.pending),
        )
        self._tell_ready()

    def end(self, where: TopicPartition, partition: Partition) -> None:
        """Read no more of a partition."""
        if self._partitions.get(where) is not partition:
            return
        del self._partitions[where]
        self._share_limits()
        if where in self._consumer.assignment():
            self._consumer.pause(where)
            self.metrics.partitions_lost.inc()

    def committed(self, where: TopicPartition, unsaved: Unsaved, took_s: float) -> None:
        """Count and log what a transaction published: before it was committed, nobody could see it."""
        now_s = self._clock()
        self._committed[where] = unsaved.position
        self.metrics.transactions.inc()
        self.metrics.transaction_seconds.observe(took_s)
        self.metrics.state_bytes.inc(sum(len(message.value) for message in unsaved.state))
        for judged in unsaved.judged:
            name = "anomalous" if judged.verdict.anomalous else judged.verdict.unjudged or "normal"
            self.metrics.sessions_scored.labels(judged.session.kind, name).inc()
            self.metrics.publish_seconds.observe(now_s - judged.closed_at_s)
        for judged in (*unsaved.early, *unsaved.judged):
            if judged.verdict.anomalous:
                self._say_alert(judged)
        for rejected in unsaved.rejected:
            record, error = rejected.record, rejected.error
            self.metrics.dead_letters.labels(error.reason).inc()
            place = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
            log.warning("dead_letter", reason=error.reason, detail=error.detail, **place)

    def broker_is_up(self) -> bool:
        """Tell whether the broker answered the last question."""
        return self.health.broker_up

    def _say_alert(self, judged: Judged) -> None:
        session, verdict = judged.session, judged.verdict
        self.metrics.alerts.labels(session.kind, judged.stage).inc()
        log.info(
            "alert",
            stage=judged.stage,
            kind=session.kind,
            key=session.key,
            score=verdict.score,
            threshold=verdict.threshold,
            close_reason=session.close_reason or None,
            event_id=self._composer.event_id(judged),
        )

    async def _find_position(self, where: TopicPartition, partition: Partition) -> None:
        """Settle where to read on. A gap is never jumped in silence: it is logged what is missing, and counted."""
        async with asyncio.timeout(_ANSWER_WITHIN_S):
            start: int = (await self._consumer.beginning_offsets([where]))[where]
            end: int = (await self._consumer.end_offsets([where]))[where]
            position = partition.position
            if position is None:
                position = await self._consumer.committed(where)
                if position is None:
                    position = end if self.settings.start == "latest" else start
                partition.begin_at(position)
            made_anew = position > end or await self._is_another_topic(where, partition)
        if made_anew:
            log.error(
                "input_made_anew",
                partition=where.partition,
                position=position,
                end_offset=end,
                remedy="nothing to be done: what was open is judged as it is, and the new topic is read from its start",
            )
            self._hand_over(partition, partition.flush(), self._clock())
            while partition.pending:  # noqa: ASYNC110 - the scorer lowers it
                await asyncio.sleep(0.05)
            partition.begin_at(start)
        elif position < start:
            log.error(
                "records_lost",
                partition=where.partition,
                from_offset=position,
                to_offset=start,
                remedy="longer retention of the input topic, or a daemon that is down for less long",
            )
            self.metrics.records_lost.inc(start - position)
            partition.begin_at(start)

    async def _is_another_topic(self, where: TopicPartition, partition: Partition) -> bool:
        """Tell whether the record before the position is not the one that was read there."""
        if partition.last_record is None:
            return False
        offset, timestamp_ms = partition.last_record
        return await self._raw_lines.timestamp_ms(where.partition, offset) not in (None, timestamp_ms)

    def _share_limits(self) -> None:
        """Give each partition its share of the limits, which are the process's."""
        settings, share = self.settings, max(1, len(self._partitions))
        for partition in self._partitions.values():
            partition.limit(
                settings.max_open_sessions // share,
                settings.max_open_lines // share,
                settings.max_open_mb * 1_000_000 // share,
            )

    async def _caught_up(self, where: TopicPartition, partition: Partition) -> bool:
        """Tell whether everything that the newest fetch saw of the partition has been read.

        Where nothing is fetched (reading is paused, or the broker is away) nobody can tell: lines may be waiting there,
        and time must not close the sessions that they belong to.
        """
        if partition.position is None or self._paused or not self.health.broker_up:
            return False
        if where not in self._consumer.assignment():
            return False
        end: int | None = self._consumer.last_stable_offset(where)
        if end is None or end < 0:
            return False
        if partition.position < end:
            # Behind the last record may stand control records, which only the consumer knows of.
            try:
                async with asyncio.timeout(_TURN_S):
                    position: int = await self._consumer.position(where)
            except (KafkaError, TimeoutError):
                return False
            if position >= end and self._partitions.get(where) is partition:
                partition.skip_to(position)
        return partition.position >= end

    def _hand_over(self, partition: Partition, closed: Iterable[Session], now_s: float) -> None:
        """Queue closed sessions for the scorer."""
        for session in closed:
            self._wait(partition, session, now_s)
            self.metrics.sessions_closed.labels(session.kind, session.close_reason).inc()

    def _wait(self, partition: Partition, session: Session, now_s: float) -> None:
        self._waiting.put(Closed(partition, session, self._scorer.prepare(session), now_s))

    async def _score(self) -> None:
        """Score batches on the thread and have published what comes of them; in between, look at open sessions."""
        loop = asyncio.get_running_loop()
        while True:
            await self._early.look_until_closed(self._waiting)
            batch = [closed for closed in await self._waiting.batch() if not closed.partition.dropped]
            started_s = loop.time()
            scoring = loop.run_in_executor(
                self._thread, self._scorer.score_prepared, [closed.prepared for closed in batch]
            )
            try:
                scores = await asyncio.wait_for(scoring, self.settings.score_timeout_s)
            except TimeoutError:
                raise ScorerHungError(f"{len(batch)} sessions for {self.settings.score_timeout_s:.0f} s") from None
            self.metrics.batch_sessions.observe(len(batch))
            self.metrics.score_seconds.observe(loop.time() - started_s)
            for closed, score in zip(batch, scores, strict=True):
                partition, session = closed.partition, closed.session
                if partition.dropped:
                    continue  # it is scored again, by whoever has the partition now
                verdict = partition.judge.judge(
                    session.kind, score.statistics, late=session.late, outdated=session.outdated
                )
                self._early.ended(partition, session)
                origin = partition.topic, partition.number
                partition.judged(Judged(*origin, session, score, verdict, closed_at_s=closed.closed_at_s))
                if verdict.anomalous:
                    self._wake(partition)

    def _announce(self, partition: Partition, judged: Judged) -> None:
        """Have an early alert published."""
        if not partition.dropped:
            partition.announce(judged, self._clock())
            self._wake(partition)

    def _wake(self, partition: Partition) -> None:
        tenure = self._tenures.get(TopicPartition(partition.topic, partition.number))
        if tenure is not None:
            tenure[0].wake()

    def _throttle(self) -> None:
        """Stop fetching while the scorer is behind; keep polling, so that the group knows we are there."""
        pending = self._pending
        if not self._paused and pending >= self.settings.max_pending_sessions:
            self._consumer.pause(*self._read_now())
            self._paused = True
            log.info("reading_paused", pending_sessions=pending)
        elif self._paused and pending <= self.settings.max_pending_sessions // 2:
            self._consumer.resume(*self._read_now())
            self._paused = False
            log.info("reading_resumed", pending_sessions=pending)

    def _read_now(self) -> set[TopicPartition]:
        assigned: set[TopicPartition] = self._consumer.assignment()
        return assigned & set(self._partitions)

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
        self.metrics.open_bytes.set(sum(partition.sessionizer.tables.open_bytes for partition in partitions))
        self.metrics.sessions_pending.set(self._pending)
        self.health.last_turn_s = now_s

    async def _advise(self) -> None:
        while True:
            await asyncio.sleep(self.settings.commit_interval_s)
            await self._advise_group()

    async def _advise_group(self) -> None:
        """Commit the positions to the group as well: lag tools look there. Nothing depends on it."""
        assigned = self._consumer.assignment()
        known = {where: offset for where, offset in self._committed.items() if where in assigned}
        if not known:
            return
        try:
            async with asyncio.timeout(_ANSWER_WITHIN_S):
                await self._consumer.commit(known)
        except (KafkaError, TimeoutError) as error:
            log.info("group_not_advised", error=repr(error))
        else:
            for where, offset in known.items():
                if self._committed.get(where) == offset:
                    del self._committed[where]

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
            await stop_client(client)
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

    async def _let_go(self, revoked: Collection[TopicPartition]) -> None:
        """Commit once more, without waiting for the scorer, and forget: the next owner finds it in the state topic."""
        ended = {where: self._tenures.pop(where) for where in revoked if where in self._tenures}
        for tenure, _ in ended.values():
            tenure.end()
        tasks = [task for _, task in ended.values()]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=_LET_GO_WITHIN_S)
            for task in late:
                task.cancel()

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """Let go of partitions (aiokafka's callback; no heartbeat is sent while it runs)."""
        if revoked:
            self.health.partitions = None
            await self._let_go(revoked)
            log.info("partitions_revoked", partitions=sorted(where.partition for where in revoked))

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """Have each partition taken over (aiokafka's callback; no heartbeat is sent while it runs)."""
        # Until it is known where to begin, nothing may be read.
        self._consumer.pause(*assigned)
        await self._let_go(assigned)
        self._paused = False
        self.metrics.rebalances.inc()
        self.metrics.lag.clear()
        log.info("partitions_assigned", partitions=sorted(where.partition for where in assigned))
        for where in sorted(assigned):
            tenure = Tenure(
                where,
                self,
                interval_s=self.settings.commit_interval_s,
                commit_within_s=_COMMIT_SHARE * self.settings.transaction_timeout_s,
            )
            self._tenures[where] = tenure, self._tasks.create_task(tenure.run())
        self._tell_ready()

    def _tell_ready(self) -> None:
        if all(where in self._partitions for where in self._tenures):
            self.health.partitions = len(self._partitions)
