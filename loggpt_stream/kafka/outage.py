"""Why the broker is away: found out by logging in once more, and said when it is news."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from loggpt_stream.kafka.connection import explain, why_not
from loggpt_stream.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from loggpt_stream.kafka.settings import KafkaSettings

log = get_logger(__name__)

# A refused login that is tried every second may lock the account.
_EVERY_S: Final = 30.0
_ASK_WITHIN_S: Final = 10.0


class Outage:
    """Says why the broker is away, once for each reason, and at most every thirty seconds."""

    def __init__(
        self,
        kafka: KafkaSettings,
        ask: Callable[[KafkaSettings], Awaitable[str | None]] = why_not,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`ask` returns why the broker does not let us in, or None where it does."""
        self._kafka = kafka
        self._ask = ask
        self._clock = clock
        self._asked_s = float("-inf")
        self._reason: str | None = None

    async def say(self, error: BaseException) -> None:
        """Log why nothing could be asked of the broker; `error` is what came of the attempt."""
        if self._clock() - self._asked_s < _EVERY_S:
            return
        self._asked_s = self._clock()
        try:
            async with asyncio.timeout(_ASK_WITHIN_S):
                reason = await self._ask(self._kafka)
        except TimeoutError as late:
            reason = explain(late)
        reason = reason or explain(error)
        if reason != self._reason:
            self._reason = reason
            log.warning("broker_unavailable", bootstrap=self._kafka.bootstrap, reason=reason, error=repr(error))

    def over(self) -> None:
        """Note that the broker answers: if it goes again, that is news whatever the reason."""
        self._reason = None
