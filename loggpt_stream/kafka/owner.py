"""A partition and its log, as one: what was committed comes back, and what came since is committed whole.

Nothing here knows of asyncio: the simulation drives the same code with a log of its own, step by step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from loggpt_stream.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from loggpt_stream.kafka.changelog import Change, Changelog
    from loggpt_stream.kafka.transactions import Bulk, Outgoing
    from loggpt_stream.message import Message


class Taken(Protocol):
    """What goes into one transaction: where the input was read to, and the records for the state topic."""

    @property
    def position(self) -> int:
        """Return the offset of the next record."""

    @property
    def state(self) -> list[Message]:
        """Return the records for the state topic."""


UnsavedT = TypeVar("UnsavedT", bound=Taken)
UnsavedT_co = TypeVar("UnsavedT_co", bound=Taken, covariant=True)


class Owned(Protocol[UnsavedT_co]):
    """What an owner and its membership need of a partition; see `Partition`.

    position: offset of the next record; None until it is known where to begin. last_record: offset and timestamp (ms)
    of the record before it, if that was read. dropped: set once the partition is lost.
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

    def take(self) -> UnsavedT_co | None:
        """Return all that is not in Kafka yet, as of now; None where there is nothing."""


OwnedT = TypeVar("OwnedT", bound="Owned[Any]")


class Log(Protocol):
    """What an owner needs of Kafka; see `TransactionalLog`."""

    async def take_over(self) -> list[tuple[bytes | None, bytes | None]]:
        """Fence the owner before, and return what was committed."""

    async def confirm(self) -> None:
        """Raise where another owner has come."""

    async def commit(self, outgoing: Iterable[Outgoing | Bulk]) -> None:
        """Write all of it, or nothing."""

    async def close(self) -> None:
        """Let go."""


class Owner(Generic[OwnedT, UnsavedT]):
    """One life of a partition in this process, from `take_over` to `close`; after any error only `close` is left."""

    def __init__(
        self,
        log: Log,
        changelog: Changelog,
        partition: OwnedT,
        compose: Callable[[UnsavedT], Awaitable[Sequence[Outgoing | Bulk]]],
    ) -> None:
        """`compose` makes the messages of a transaction; raw lines may have to be read again for it."""
        self.partition = partition
        self._log = log
        self._changelog = changelog
        self._compose = compose

    async def take_over(self) -> None:
        """Fence the owner before, and restore what it had committed. Raises as the log does, and `UserError`."""
        records = await self._log.take_over()
        try:
            self.partition.restore(self._changelog.read(records))
        except UserError:
            # A newer owner may have written a snapshot meanwhile, and compaction taken what it replaced from under us.
            await self._log.confirm()
            raise

    async def commit(self) -> UnsavedT | None:
        """Write in one transaction all that came of the records so far; return it, or None if there was nothing.

        Raises as the log does. The outcome is then unknown, and taking over anew tells.
        """
        unsaved: UnsavedT | None = self.partition.take()
        if unsaved is None:
            return None
        await self._log.commit(await self._compose(unsaved))
        return unsaved

    async def close(self) -> None:
        """Let go of the partition."""
        self.partition.dropped = True
        await self._log.close()
