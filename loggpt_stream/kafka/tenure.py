"""A partition from its assignment to its revocation: taken over, committed every so often; on failure again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol

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
from loggpt_stream.kafka.owner import OwnedT, UnsavedT
from loggpt_stream.logs import get_logger

if TYPE_CHECKING:
    from aiokafka import TopicPartition

    from loggpt_stream.kafka.owner import Owner

log = get_logger(__name__)

_TAKE_OVER_WITHIN_S: Final = 60.0
_MOST_FAILURES: Final = 10
_BACKOFF_S: Final = 0.5
_MAX_BACKOFF_S: Final = 10.0
# Alerts go out at once, but not more often than this: a transaction costs the broker as much as a hundred records.
_LEAST_INTERVAL_S: Final = 0.1

Lost = (KafkaError, TimeoutError, OSError)
_Forbidden = (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)


class Host(Protocol[OwnedT, UnsavedT]):
    """What a tenure needs of the membership."""

    def owner(self, where: TopicPartition, *, small: bool) -> Owner[OwnedT, UnsavedT]:
        """Return an owner of a partition that has not taken over yet; `small`: the broker takes no large messages."""

    async def begin(self, where: TopicPartition, partition: OwnedT) -> None:
        """Have its records read from its position on. Raises where it is no longer assigned to us."""

    def end(self, where: TopicPartition, partition: OwnedT) -> None:
        """Have no more of its records read."""

    def committed(self, where: TopicPartition, unsaved: UnsavedT, took_s: float) -> None:
        """Be told of a transaction."""

    def broker_is_up(self) -> bool:
        """Tell whether failing again and again can be anything but the broker's absence."""


class Tenure(Generic[OwnedT, UnsavedT]):
    """Keeps one assigned partition owned, whatever happens to its producer."""

    def __init__(
        self, where: TopicPartition, host: Host[OwnedT, UnsavedT], *, interval_s: float, commit_within_s: float
    ) -> None:
        """interval_s: between transactions at most. commit_within_s: time limit of one; below the broker's own."""
        self.where = where
        self._host = host
        self._interval_s = interval_s
        self._commit_within_s = commit_within_s
        self._ending = asyncio.Event()
        self._wake = asyncio.Event()
        self._lost: KafkaError | None = None
        self._small = False
        # In a row; and during what.
        self._failures = 0
        self._step = ""

    def wake(self) -> None:
        """Commit soon: an alert waits."""
        self._wake.set()

    def lose(self, error: KafkaError) -> None:
        """Take over anew: what is read or known of the partition is not what it should be."""
        self._lost = error
        self._wake.set()

    def end(self) -> None:
        """Commit once more and let go: `run` returns soon."""
        self._ending.set()
        self._wake.set()

    async def run(self) -> None:
        """Own the partition until `end`.

        Raises `UserError` where trying again cannot help, and `KafkaError` where it has failed too often in a row.
        """
        while not self._ending.is_set():
            owner = self._host.owner(self.where, small=self._small)
            self._lost = None
            pause_s = 0.0
            try:
                self._step = "taking over"
                async with asyncio.timeout(_TAKE_OVER_WITHIN_S):
                    await owner.take_over()
                self._step = "finding where to read on"
                await self._host.begin(self.where, owner.partition)
                await self._commit_until_end(owner)
            except (CommitFailedError, IllegalStateError) as error:
                # The group has given the partition to somebody else, or is about to tell.
                log.info("partition_not_ours", partition=self.where.partition, error=repr(error))
                pause_s = _BACKOFF_S
            except Lost as error:
                self._failures += self._host.broker_is_up()
                self._say(error)
                pause_s = min(_BACKOFF_S * 2**self._failures, _MAX_BACKOFF_S)
            finally:
                self._host.end(self.where, owner.partition)
                await _bounded(owner.close())
            if pause_s:
                await self._pause(pause_s)

    async def _commit_until_end(self, owner: Owner[OwnedT, UnsavedT]) -> None:
        """Commit until `end`, and once more then."""
        while True:
            ending = self._ending.is_set()
            started_s = asyncio.get_running_loop().time()
            self._step = "a transaction"
            async with asyncio.timeout(self._commit_within_s):
                unsaved = await owner.commit()
            if unsaved is not None:
                self._failures = 0
                self._host.committed(self.where, unsaved, asyncio.get_running_loop().time() - started_s)
            if self._lost is not None:
                self._step = "reading"
                raise self._lost
            if ending:
                return
            await self._due()

    async def _due(self) -> None:
        """Wait until the next transaction is due."""
        await self._pause(_LEAST_INTERVAL_S)
        try:
            async with asyncio.timeout(self._interval_s):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()

    async def _pause(self, seconds: float) -> None:
        """Wait so long, or until `end`."""
        try:
            async with asyncio.timeout(seconds):
                await self._ending.wait()
        except TimeoutError:
            return

    def _say(self, error: Exception) -> None:
        """Tell of a failure. Raises what ends the daemon, where this was one too many or cannot be mended by trying."""
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


async def _bounded(closing: Any) -> None:  # noqa: ANN401 - a coroutine
    try:
        async with asyncio.timeout(5.0):
            await closing
    except Lost as error:
        log.warning("producer_left_open", error=repr(error))
