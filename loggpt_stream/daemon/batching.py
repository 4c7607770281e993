"""Closed sessions waiting for the scorer, handed over in micro-batches."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loggpt_stream.daemon.partition import Partition
    from loggpt_stream.lines.session import Session
    from loggpt_stream.model.scoring import Prepared


@dataclass(frozen=True, slots=True)
class Closed:
    """A closed session on its way to the scorer, and what the model reads of it."""

    partition: Partition
    session: Session
    prepared: Prepared
    closed_at_s: float

    @property
    def tokens(self) -> int:
        """Return how many tokens the model reads for it."""
        return self.prepared.tokens


class Waiting:
    """The queue before the scorer."""

    def __init__(self, *, batch_tokens: int, batch_wait_s: float) -> None:
        """A batch holds at most `batch_tokens` (one longer session goes alone) and waits at most `batch_wait_s`."""
        self._batch_tokens = batch_tokens
        self._batch_wait_s = batch_wait_s
        self._queue: asyncio.Queue[Closed] = asyncio.Queue()
        self._next: Closed | None = None

    def put(self, closed: Closed) -> None:
        """Add a session at the end. How many wait is the reader's to bound: it stops reading."""
        self._queue.put_nowait(closed)

    async def ready(self, within_s: float) -> bool:
        """Tell whether a closed session waits; for the first one, wait so many seconds at most."""
        if self._next is None and (within_s > 0 or not self._queue.empty()):
            try:
                async with asyncio.timeout(within_s):
                    self._next = await self._queue.get()
            except TimeoutError:
                return False
        return self._next is not None

    async def batch(self) -> list[Closed]:
        """Return the next batch: as soon as it is full, or its first session has waited long enough."""
        first = self._next or await self._queue.get()
        self._next = None
        batch, tokens = [first], first.tokens
        deadline_s = asyncio.get_running_loop().time() + self._batch_wait_s
        while tokens < self._batch_tokens:
            try:
                async with asyncio.timeout_at(deadline_s):
                    closed = await self._queue.get()
            except TimeoutError:
                break
            if tokens + closed.tokens > self._batch_tokens:
                self._next = closed
                break
            batch.append(closed)
            tokens += closed.tokens
        return batch
