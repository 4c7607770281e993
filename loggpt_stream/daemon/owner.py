"""A partition and its log, as one: what was committed comes back, and what came since is committed whole.

Nothing here knows of asyncio: the simulation drives the same code with a log of its own, step by step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from loggpt_stream.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from loggpt_stream.daemon.ledger import Ledger
    from loggpt_stream.daemon.partition import Partition, Unsaved
    from loggpt_stream.daemon.transactions import Outgoing


class Log(Protocol):
    """What an owner needs of Kafka; see `TransactionalLog`."""

    async def take_over(self) -> list[tuple[bytes | None, bytes | None]]:
        """Fence the owner before, and return what was committed."""

    async def confirm(self) -> None:
        """Raise where another owner has come."""

    async def commit(self, outgoing: Iterable[Outgoing]) -> None:
        """Write all of it, or nothing."""

    async def close(self) -> None:
        """Let go."""


class Owner:
    """One life of a partition in this process, from `take_over` to `close`; after any error only `close` is left."""

    def __init__(
        self,
        log: Log,
        ledger: Ledger,
        partition: Partition,
        compose: Callable[[Unsaved], Awaitable[list[Outgoing]]],
    ) -> None:
        """`compose` makes the messages of a transaction; raw lines may have to be read again for it."""
        self.partition = partition
        self._log = log
        self._ledger = ledger
        self._compose = compose

    async def take_over(self) -> None:
        """Fence the owner before, and restore what it had committed. Raises as the log does, and `UserError`."""
        records = await self._log.take_over()
        try:
            self.partition.restore(self._ledger.read(records))
        except UserError:
            # A newer owner may have written a snapshot meanwhile, and compaction taken what it replaced from under us.
            await self._log.confirm()
            raise

    async def commit(self) -> Unsaved | None:
        """Write in one transaction all that came of the records so far; return it, or None if there was nothing.

        Raises as the log does. The outcome is then unknown, and taking over anew tells.
        """
        unsaved = self.partition.take()
        if unsaved is None:
            return None
        await self._log.commit(await self._compose(unsaved))
        return unsaved

    async def close(self) -> None:
        """Let go of the partition."""
        self.partition.dropped = True
        await self._log.close()
