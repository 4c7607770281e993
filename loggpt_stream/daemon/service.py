"""The daemon: Kafka in, sessions, one scorer thread, alerts out, each exactly once for `read_committed` readers.

One event loop reads, decodes, gathers and publishes; one thread scores. What a partition's sessions consist of is in
the state topic: one transaction writes alerts, what changed, and how far the input was read (`PartitionTask`). A crash,
a rebalance or a lost broker at any moment leaves either all of that or nothing, and whoever has the partition next goes
on from there, having fenced whoever had it before.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import torch
from aiokafka import TopicPartition

from loggpt_stream.alerts.alert import AlertWriter, JudgedSession
from loggpt_stream.daemon.batching import Closed, Waiting
from loggpt_stream.daemon.drift_report import DriftReport
from loggpt_stream.daemon.early import EarlyLooks
from loggpt_stream.daemon.memory import give_back_memory
from loggpt_stream.daemon.metrics import Metrics
from loggpt_stream.daemon.partition import Partition, SessionCommit
from loggpt_stream.daemon.publisher import SessionPublisher
from loggpt_stream.daemon.scorer_thread import ScorerThread
from loggpt_stream.daemon.state_formats import STATE_FORMATS
from loggpt_stream.kafka.clients import Clients
from loggpt_stream.kafka.health import Health, ProgressWatch, serve
from loggpt_stream.kafka.membership import Membership
from loggpt_stream.kafka.record_reader import RecordReader
from loggpt_stream.lines.record import as_record
from loggpt_stream.logs import get_logger
from loggpt_stream.model.scoring import AbandonedError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from loggpt_stream.daemon.settings import DaemonSettings
    from loggpt_stream.kafka.changelog import Changelog
    from loggpt_stream.kafka.membership import Clock
    from loggpt_stream.lines.session import Session
    from loggpt_stream.model.detector import Detector

log = get_logger(__name__)

# What waits for the scorer may take this share of max_open_mb besides.
_WAITING_SHARE: Final = 0.25
# Of what may wait for the scorer: between the two limits, pausing and resuming do not chase each other.
_RESUME_AT: Final = 0.5


class Daemon:
    """One process of the consumer group, from start to SIGTERM."""

    state_formats = STATE_FORMATS

    def __init__(self, settings: DaemonSettings, detector: Detector, clock: Clock = time.time) -> None:
        """Start outside the group, with nothing read."""
        self.settings = settings
        self.metrics = Metrics()
        self.health = Health(last_turn_s=clock(), progress=ProgressWatch(settings.stuck_after_s))
        self._detector = detector
        self._clock = clock
        self._drift = DriftReport(self.metrics)
        self._thread = ScorerThread(settings.score_timeout_s)
        self._scored = 0
        self._waiting = Waiting(batch_tokens=settings.batch_tokens, batch_wait_s=settings.batch_wait_s)
        clients = Clients(settings)
        records = RecordReader(settings.input_topic, clients.reader)
        writer = AlertWriter(detector, settings.cluster)
        publisher = SessionPublisher(settings, writer, detector.gathering, records, self.metrics, clock)
        self._group = Membership[Partition, SessionCommit](
            settings,
            clients,
            records,
            application=self,
            publisher=publisher,
            metrics=self.metrics,
            health=self.health,
            clock=clock,
        )
        self._early = EarlyLooks(
            detector, self._group.partitions, self._announce, self._thread, every_s=settings.early_every_s
        )

    @property
    def scorer_busy(self) -> bool:
        """Tell whether the scorer's thread is at work: it cannot be ended, and the interpreter would wait for it."""
        return self._thread.busy

    @property
    def _pending(self) -> int:
        return sum(len(partition.pending) for partition in self._group.partitions.values())

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
                bundle=str(settings.bundle),
                model=self._detector.model_fingerprint,
                device=str(self._detector.scorer.device),
                http_port=port,
                input_topic=settings.input_topic,
            )
            lifetimes.push_async_callback(self._group.close)
            lifetimes.callback(self._thread.close)
            if await self._group.connect(stop):
                await self._work(stop)

    async def _work(self, stop: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as tasks:
            beside = [tasks.create_task(self._score()), *self._group.join(tasks)]
            await self._read(stop)
            log.info("daemon_stopping", pending_sessions=self._pending)
            self.health.stopping = True
            await self._drain()
            open_sessions = sum(partition.sessionizer.open_sessions for partition in self._group.partitions.values())
            await self._group.leave()
            for task in beside:
                task.cancel()
        log.info("daemon_stopped", open_sessions=open_sessions)

    async def _read(self, stop: asyncio.Event) -> None:
        """Read, decode and gather until `stop`: the main loop."""
        while not stop.is_set():
            batches = await self._group.poll()
            now_s = self._clock()
            for where, records in batches.items():
                partition = self._group.partitions.get(where)
                if partition is None:
                    continue  # fetched before it was ours to read; it is read again
                for record in map(as_record, records):
                    if closed := partition.feed(record, now_s):
                        self._hand_over(partition, closed, now_s)
                self.metrics.records.inc(len(records))
                self.metrics.input_bytes.inc(sum(len(record.value or b"") for record in records))
            for where, partition in list(self._group.partitions.items()):
                caught_up = await self._group.caught_up(where, partition)
                closed = partition.tick(now_s, caught_up=caught_up, clock_speed=self.settings.clock_speed)
                self._hand_over(partition, closed, now_s)
            self._throttle()
            self._observe(now_s)
            await asyncio.sleep(0)  # a poll may return at once, again and again: the other tasks must get their turn

    # What a membership needs (`membership.Application`).

    def new_partition(self, where: TopicPartition, changelog: Changelog) -> Partition:
        """Return the state of a partition of which nothing is known yet."""
        new_judge = partial(self._detector.new_judge, self.settings.drift)
        return Partition(where.topic, where.partition, self._detector.gathering, new_judge, changelog)

    async def input_recreated(self, partition: Partition) -> None:
        """Close what is open and have it judged: the topic that it came from is no more."""
        # Those that a restart brought back come first, and would else only be scored when the partition is read.
        restored = list(partition.pending.values())
        closed = partition.flush()
        for session in restored:
            self._wait(partition, session, self._clock())
        self._hand_over(partition, closed, self._clock())
        while partition.pending:
            # The scorer lowers it, and is watched by itself.
            self.health.progress.forget(TopicPartition(partition.topic, partition.number))
            await asyncio.sleep(0.05)

    def started(self, where: TopicPartition, partition: Partition) -> None:
        """Score what was closed and not yet judged; records come next."""
        give_back_memory()
        self._share_limits()
        for session in partition.pending.values():
            self._wait(partition, session, self._clock())
        log.info(
            "partition_taken_over",
            partition=where.partition,
            position=partition.position,
            open_sessions=partition.sessionizer.open_sessions,
            pending_sessions=len(partition.pending),
        )

    def stopped(self, where: TopicPartition) -> None:  # noqa: ARG002 - which one makes no difference
        """Leave more room to the other partitions."""
        self._share_limits()

    def _share_limits(self) -> None:
        """Give each partition its share of the limits, which are the process's."""
        settings, share = self.settings, max(1, len(self._group.partitions))
        for partition in self._group.partitions.values():
            partition.limit(
                settings.max_open_sessions // share,
                settings.max_open_lines // share,
                settings.max_open_mb * 1_000_000 // share,
            )

    def _hand_over(self, partition: Partition, closed: Iterable[Session], now_s: float) -> None:
        """Queue closed sessions for the scorer."""
        for session in closed:
            self._wait(partition, session, now_s)
            self.metrics.sessions_closed.labels(session.kind, session.close_reason).inc()

    def _wait(self, partition: Partition, session: Session, now_s: float) -> None:
        self._waiting.put(Closed(partition, session, self._detector.scorer.prepare(session), now_s))

    async def _score(self) -> None:
        """Score batches on the thread and have published what comes of them; in between, look at open sessions."""
        # Once nobody waits for the scores any more, it ends.
        with suppress(AbandonedError):
            while True:
                await self._early.look_until_closed(self._waiting)
                await self._score_batch([each for each in await self._waiting.batch() if not each.partition.dropped])

    async def _score_batch(self, batch: list[Closed]) -> None:
        started_s = time.monotonic()
        scores = await self._thread.run(self._detector.scorer.score_prepared, [closed.prepared for closed in batch])
        self._scored += len(batch)
        self.metrics.batch_sessions.observe(len(batch))
        self.metrics.score_seconds.observe(time.monotonic() - started_s)
        for closed, score in zip(batch, scores, strict=True):
            partition, session = closed.partition, closed.session
            if partition.dropped:
                continue  # it is scored again, by whoever has the partition now
            verdict = partition.judge.judge(
                session.kind, score.statistics, late=session.late, outdated=session.outdated
            )
            self._early.ended(partition, session)
            origin = partition.topic, partition.number
            if partition.judged(JudgedSession(*origin, session, score, verdict, closed_at_s=closed.closed_at_s)):
                self._wake(partition)

    def _announce(self, partition: Partition, judged: JudgedSession) -> None:
        """Have an early alert published."""
        if not partition.dropped:
            partition.announce(judged, self._clock())
            self._wake(partition)

    def _wake(self, partition: Partition) -> None:
        self._group.wake(TopicPartition(partition.topic, partition.number))

    def _throttle(self) -> None:
        """Stop fetching while the scorer is behind."""
        settings, pending = self.settings, self._pending
        waiting = (each for partition in self._group.partitions.values() for each in partition.pending.values())
        pending_bytes = sum(session.bytes for session in waiting)
        most_bytes = _WAITING_SHARE * settings.max_open_mb * 1_000_000
        filled = max(pending / settings.max_pending_sessions, pending_bytes / most_bytes)
        if not self._group.paused and filled >= 1:
            self._group.pause()
            log.info("reading_paused", pending_sessions=pending, pending_bytes=pending_bytes)
        elif self._group.paused and filled <= _RESUME_AT:
            self._group.resume()
            log.info("reading_resumed", pending_sessions=pending)

    def _observe(self, now_s: float) -> None:
        """Bring health and gauges up to date."""
        partitions = self._group.partitions.values()
        for partition in partitions:
            for fate, count in partition.sessionizer.fates.items():
                self.metrics.lines.labels(fate).inc(count)
            partition.sessionizer.fates.clear()
            self._drift.observe(partition.number, partition.judge)
            self.metrics.watermark.labels(str(partition.number)).set(partition.sessionizer.watermark_s)
        self.metrics.sessions_open.set(sum(partition.sessionizer.open_sessions for partition in partitions))
        self.metrics.lines_open.set(sum(partition.sessionizer.open_lines for partition in partitions))
        self.metrics.open_bytes.set(sum(partition.sessionizer.tables.open_bytes for partition in partitions))
        self.metrics.sessions_pending.set(self._pending)
        self.metrics.batch_tokens.set(self._detector.scorer.batch_tokens)
        self.metrics.on_cpu.set(self._detector.scorer.device.type == "cpu")
        # While its thread is at work, the scorer's own time limit holds.
        idle = self._pending > 0 and not self._thread.busy
        self.health.progress.see("scorer", "closed sessions are not scored", self._scored, now_s, waits=idle)
        self.health.last_turn_s = now_s

    async def _drain(self) -> None:
        """Wait, at most the grace time, until every closed session is scored and published."""
        deadline_s = asyncio.get_running_loop().time() + self.settings.shutdown_grace_s
        while self._pending and asyncio.get_running_loop().time() < deadline_s:  # noqa: ASYNC110 - two tasks lower it
            await asyncio.sleep(0.05)
        if self._pending:
            log.warning("drain_timed_out", pending_sessions=self._pending)
            self._detector.scorer.abandoned = True  # a long session is scored in many batches: not the rest of them
