"""The thread that the model runs on, and how long anything may take there."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Result = TypeVar("Result")


class ScorerHungError(Exception):
    """Scoring did not end in time; its thread cannot be ended, so the process has to."""


class ScorerThread:
    """One thread, on which one thing after the other is done, until `close`."""

    def __init__(self, timeout_s: float) -> None:
        """timeout_s: what takes longer counts as hung."""
        self._timeout_s = timeout_s
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="scorer")
        self._newest: Future[Any] | None = None

    @property
    def busy(self) -> bool:
        """Tell whether something is still being done, whoever waits for it."""
        return self._newest is not None and not self._newest.done()

    async def run(self, work: Callable[..., Result], *arguments: object) -> Result:
        """Return what `work` returns. Raises what it raises, and `ScorerHungError`."""
        self._newest = done = self._pool.submit(work, *arguments)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.wrap_future(done)
        except TimeoutError:
            raise ScorerHungError(f"scoring has taken more than score_timeout_s = {self._timeout_s:g} s") from None

    def close(self) -> None:
        """Begin nothing more. What is being done goes on, and the interpreter's end would wait for it."""
        self._pool.shutdown(wait=False, cancel_futures=True)
