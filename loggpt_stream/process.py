"""A service as a process: until it is told to end, and with an exit code."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

from loggpt_stream.errors import UserError
from loggpt_stream.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator


def run_until_signalled(
    run: Callable[[asyncio.Event], Coroutine[None, None, None]],
    *,
    failed: str,
) -> int:
    """Run until SIGTERM or SIGINT sets the event that `run` is given; return the exit code.

    failed: the log event of an unexpected end. Raises `UserError` where that ended it.
    """
    try:
        asyncio.run(_until_signalled(run))
    except ExceptionGroup as group:
        wrong = group.subgroup(UserError)
        if wrong is not None:
            raise next(_each(wrong)) from None
        get_logger(__name__).exception(failed, errors=[repr(error) for error in _each(group)])
        return 1
    return 0


def _each(group: BaseExceptionGroup[Exception]) -> Iterator[Exception]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _each(error)
        else:
            yield error


async def _until_signalled(run: Callable[[asyncio.Event], Coroutine[None, None, None]]) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await run(stop)
