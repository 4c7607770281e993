"""What the scorer does is bounded in time, and whoever asks can tell whether it is at work."""

from __future__ import annotations

import asyncio
import threading

import pytest

from loggpt_stream.daemon.scorer_thread import ScorerHungError, ScorerThread


async def test_it_returns_what_the_work_returns_and_raises_what_it_raises() -> None:
    thread = ScorerThread(60.0)
    assert await thread.run(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await thread.run(divmod, 7, 0)
    assert not thread.busy
    thread.close()


async def test_what_hangs_is_an_error_that_names_the_setting_and_the_thread_stays_busy() -> None:
    thread, let_go = ScorerThread(0.05), threading.Event()
    with pytest.raises(ScorerHungError, match=r"score_timeout_s = 0\.05"):
        await thread.run(let_go.wait)
    assert thread.busy
    let_go.set()
    while thread.busy:
        await asyncio.sleep(0.01)
    thread.close()
