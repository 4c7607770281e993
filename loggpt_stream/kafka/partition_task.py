"""One assigned input partition, from its assignment to its revocation: restored, read, committed, restored anew.

A task owns all that the partition has in this process: its state, the changelog of that state, and the transactional
producer that alone may write it (as a task of Kafka Streams does). It lives one or more lives. Each begins with
`restore`, which fences whoever had the partition before, and ends with an error or with the task. After an error nobody
knows what the broker has, so the next life begins with what was committed.

    assigned ─► restoring ─► running ─► closed
                   ▲            │
                   └─ suspended ┘  after an error; so long it waits

`restore`, `commit` and `end_life` need no event loop: the simulation drives them step by step, with a log of its own.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    CommitFailedError,
    GroupAuthorizationFailedError,
    IllegalStateError,
    KafkaError,
    MessageSizeTooLargeError,
    ProducerFenced,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)

from loggpt_stream.errors import UserError
from loggpt_stream.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from aiokafka import TopicPartition

    from loggpt_stream.kafka.changelog import Change, Changelog
    from loggpt_stream.kafka.metrics import MemberMetrics
    from loggpt_stream.kafka.transactions import Bulk, Outgoing
    from loggpt_stream.message import Message

log = get_logger(__name__)

_RESTORE_WITHIN_S: Final = 60.0
_END_LIFE_WITHIN_S: Final = 5.0
_MOST_FAILURES: Final = 10
_BACKOFF_S: Final = 0.5
_MAX_BACKOFF_S: Final = 10.0
# Alerts go out at once, but not more often than this: a transaction costs the broker as much as a hundred records.
_LEAST_INTERVAL_S: Final = 0.1

# What ends a life and not the task. Whoever takes over anew learns from the log what happened.
Lost = (KafkaError, TimeoutError, OSError)
_Forbidden = (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)


class TaskState(StrEnum):
    """Where a task stands; see the picture above."""

    ASSIGNED = "assigned"
    RESTORING = "restoring"
    RUNNING = "running"
    SUSPENDED = "suspended"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class PendingCommit:
    """What goes into one transaction: where the input was read to (offset of the next record), and the new state."""

    position: int
    state: list[Message]


PendingT = TypeVar("PendingT", bound=PendingCommit)
PendingT_co = TypeVar("PendingT_co", bound=PendingCommit, covariant=True)
PendingT_contra = TypeVar("PendingT_contra", bound=PendingCommit, contravariant=True)


class PartitionState(Protocol[PendingT_co]):
    """What came of a partition's records so far: `daemon.partition.Partition`, or the router's.

    position: offset of the next record; None until it is known where to begin. last_record: offset and timestamp (ms)
    of the record before it, if that was read. dropped: set once its life has ended: nobody commits it any more.
    """

    position: int | None
    last_record: tuple[int, int] | None
    dropped: bool

    def restore(self, changes: list[Change]) -> None:
        """Go on where `changes` end. Raises `UserError` where they do not fit."""

    def begin_at(self, position: int) -> None:
        """Read on at `position`, which is not where it was."""

    def skip_to(self, position: int) -> None:
        """Note that there is nothing to be read before `position`, but control records."""

    def take(self) -> PendingT_co | None:
        """Return all that is not in Kafka yet, as of now; None where there is nothing."""


PartitionT = TypeVar("PartitionT", bound="PartitionState[Any]")
PartitionT_contra = TypeVar("PartitionT_contra", bound="PartitionState[Any]", contravariant=True)


class Publisher(Protocol[PartitionT_contra, PendingT_contra]):
    """What a transaction says to others, beside the state."""

    async def compose(
        self, partition: PartitionT_contra, pending: PendingT_contra, *, small: bool
    ) -> Sequence[Outgoing | Bulk]:
        """Return the messages, in an order that is always the same; `small`: the broker takes no large ones."""

    def committed(self, pending: PendingT_contra) -> None:
        """Be told of a transaction: before it was committed, nobody could see it."""


class Log(Protocol):
    """What a task needs of Kafka; see `TransactionalLog`."""

    async def take_over(self) -> list[tuple[bytes | None, bytes | None]]:
        """Fence the owner before, and return what was committed."""

    async def confirm(self) -> None:
        """Raise where another owner has come."""

    async def commit(self, outgoing: Iterable[Outgoing | Bulk], state: Iterable[Message]) -> None:
        """Write all of it, or nothing."""

    async def close(self) -> None:
        """Let go."""


class Reading(Protocol[PartitionT_contra]):
    """Where the records come from: the group's consumer; see `Membership`.

    committed: of the newest transactions of partitions, the offset of the next record. The group is told of it.
    """

    committed: dict[TopicPartition, int]

    async def start_reading(self, where: TopicPartition, partition: PartitionT_contra) -> None:
        """Read a partition from its position on. Raises where it is no longer assigned to us."""

    def stop_reading(self, where: TopicPartition, partition: PartitionT_contra) -> None:
        """Read no more of a partition."""

    def broker_is_up(self) -> bool:
        """Tell whether failing again and again can be anything but the broker's absence."""


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """interval_s: between transactions at most.

    commit_within_s: time limit of a transaction; below the broker's own, so that it is this side that takes over anew.
    """

    interval_s: float
    commit_within_s: float


class PartitionTask(Generic[PartitionT, PendingT]):
    """One assigned partition in this process. `partition`, its state, is another object in each life."""

    partition: PartitionT

    def __init__(
        self,
        where: TopicPartition,
        *,
        new_changelog: Callable[[], Changelog],
        new_partition: Callable[[TopicPartition, Changelog], PartitionT],
        open_log: Callable[[], Log],
        publisher: Publisher[PartitionT, PendingT],
        reading: Reading[PartitionT],
        metrics: MemberMetrics,
        options: TaskOptions,
    ) -> None:
        """Start assigned. `new_changelog`, `new_partition` and `open_log` make what a life begins with."""
        self.where = where
        self.state = TaskState.ASSIGNED
        self._new_changelog = new_changelog
        self._new_partition = new_partition
        self._open_log = open_log
        self._publisher = publisher
        self._reading = reading
        self._metrics = metrics
        self._options = options
        self._closing = asyncio.Event()
        self._wake = asyncio.Event()
        self._lost: KafkaError | None = None
        self._small = False
        # In a row; and during what.
        self._failures = 0
        self._step = ""
        self._begin_life()

    def _begin_life(self) -> None:
        self._changelog = self._new_changelog()
        self._log = self._open_log()
        self._lost = None
        self.partition = self._new_partition(self.where, self._changelog)

    # A life. Nothing here knows of asyncio.

    async def restore(self) -> None:
        """Fence the owner before, and restore what it had committed. Raises as the log does, and `UserError`."""
        self.state, self._step = TaskState.RESTORING, "taking over"
        records = await self._log.take_over()
        try:
            self.partition.restore(self._changelog.read(records))
        except UserError:
            # A newer owner may have written a snapshot meanwhile, and compaction taken what it replaced from under us.
            await self._log.confirm()
            raise

    async def commit(self) -> PendingT | None:
        """Write in one transaction all that came of the records so far; return it, or None if there was nothing.

        Raises as the log does. The outcome is then unknown, and the next life learns it.
        """
        self._step = "a transaction"
        pending: PendingT | None = self.partition.take()
        if pending is None:
            return None
        outgoing = await self._publisher.compose(self.partition, pending, small=self._small)
        await self._log.commit(outgoing, pending.state)
        return pending

    async def end_life(self) -> None:
        """Let go of the partition: after any error, this is all that is left to do."""
        self.partition.dropped = True
        await self._log.close()

    # The task: life after life.

    async def run(self) -> None:
        """Own the partition until `close`.

        Raises `UserError` where trying again cannot help, and `KafkaError` where it has failed too often in a row.
        """
        while not self._closing.is_set():
            if self.state is TaskState.SUSPENDED:
                self._begin_life()
            pause_s = 0.0
            try:
                async with asyncio.timeout(_RESTORE_WITHIN_S):
                    await self.restore()
                self._step = "finding where to read on"
                await self._reading.start_reading(self.where, self.partition)
                self.state = TaskState.RUNNING
                await self._commit_until_closing()
            except (CommitFailedError, IllegalStateError) as error:
                # The group has given the partition to somebody else, or is about to tell.
                log.info("partition_not_ours", partition=self.where.partition, error=repr(error))
                pause_s = _BACKOFF_S
            except Lost as error:
                self._failures += self._reading.broker_is_up()
                self._say(error)
                pause_s = min(_BACKOFF_S * 2**self._failures, _MAX_BACKOFF_S)
            finally:
                self.state = TaskState.SUSPENDED
                self._reading.stop_reading(self.where, self.partition)
                await self._end_life_soon()
            if pause_s:
                await self._pause(pause_s)
        self.state = TaskState.CLOSED

    def wake(self) -> None:
        """Commit soon: an alert waits."""
        self._wake.set()

    def lose(self, error: KafkaError) -> None:
        """Begin a new life: what is read or known of the partition is not what it should be."""
        self._lost = error
        self._wake.set()

    def close(self) -> None:
        """Commit once more and let go: `run` returns soon."""
        self._closing.set()
        self._wake.set()

    async def _commit_until_closing(self) -> None:
        """Commit until `close`, and once more then."""
        while True:
            closing = self._closing.is_set()
            started_s = asyncio.get_running_loop().time()
            async with asyncio.timeout(self._options.commit_within_s):
                pending = await self.commit()
            if pending is not None:
                self._failures = 0
                self._count(pending, asyncio.get_running_loop().time() - started_s)
            if self._lost is not None:
                self._step = "reading"
                raise self._lost
            if closing:
                return
            await self._due()

    def _count(self, pending: PendingT, took_s: float) -> None:
        self._reading.committed[self.where] = pending.position
        self._metrics.transactions.inc()
        self._metrics.transaction_seconds.observe(took_s)
        self._metrics.state_bytes.inc(sum(len(message.value) for message in pending.state))
        self._publisher.committed(pending)

    async def _due(self) -> None:
        """Wait until the next transaction is due."""
        await self._pause(_LEAST_INTERVAL_S)
        try:
            async with asyncio.timeout(self._options.interval_s):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()

    async def _pause(self, seconds: float) -> None:
        """Wait so long, or until `close`."""
        try:
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        except TimeoutError:
            return

    async def _end_life_soon(self) -> None:
        try:
            async with asyncio.timeout(_END_LIFE_WITHIN_S):
                await self.end_life()
        except Lost as error:
            log.warning("producer_left_open", error=repr(error))

    def _say(self, error: Exception) -> None:
        """Tell of a failure. Raises what ends the process, where this was one too many or trying cannot mend it."""
        if isinstance(error, MessageSizeTooLargeError):
            if self._small:
                raise UserError(
                    f"partition {self.where.partition}: even in its smallest form this is too large a message for the "
                    f"broker ({error}): give all topics that are written a max.message.bytes of 1 MiB, or of a "
                    "kilobyte more than the input topic has, if that is larger"
                ) from error
            self._small = True
        if isinstance(error, _Forbidden):
            raise UserError(
                f"partition {self.where.partition}: the broker does not allow it: {error!r}. deploy/kafka/acls.sh "
                "gives what is needed: for the daemon with `run` (loggpt-stream doctor tells what is missing), for the "
                "router with `route`"
            ) from error
        fenced = isinstance(error, ProducerFenced)
        log.warning(
            "partition_fenced" if fenced else "partition_lost",
            partition=self.where.partition,
            during=self._step,
            error=repr(error),
            failures=self._failures,
        )
        if self._failures >= _MOST_FAILURES:
            raise KafkaError(
                f"partition {self.where.partition}: {self._failures} failures in a row, the last of them while "
                f"{self._step}: {error!r}"
            ) from error
