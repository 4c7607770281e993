"""Closed sessions reach the scorer in batches bounded by tokens and by waiting."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from loggpt_stream.daemon.batching import Closed, Waiting
from loggpt_stream.model.scoring import Prepared
from loggpt_stream.model.sequence import Window

if TYPE_CHECKING:
    from collections.abc import Iterable


def closed(tokens: int, name: int = 0) -> Closed:
    nothing: Any = None
    window = Window("lines", (0,) * tokens, (0,) * tokens)
    return Closed(nothing, nothing, Prepared([window], [], {}, None), float(name))


async def batches(sizes: Iterable[int], count: int, **limits: Any) -> list[list[int]]:
    waiting = Waiting(**{"batch_tokens": 100, "batch_wait_s": 0.01, **limits})
    for name, size in enumerate(sizes):
        waiting.put(closed(size, name))
    return [[int(each.closed_at_s) for each in await waiting.batch()] for _ in range(count)]


async def test_a_batch_ends_before_it_would_hold_too_many_tokens() -> None:
    assert await batches([60, 40, 1, 99, 100], 3) == [[0, 1], [2, 3], [4]]


async def test_a_session_longer_than_a_batch_goes_alone() -> None:
    assert await batches([10, 500, 10], 3) == [[0], [1], [2]]


async def test_a_batch_goes_when_its_first_session_has_waited() -> None:
    assert await batches([10, 10], 1) == [[0, 1]]


async def test_no_batch_without_a_session() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await Waiting(batch_tokens=100, batch_wait_s=0.01).batch()


async def test_every_session_comes_once_and_in_order() -> None:
    sizes = [7 * n % 90 + 1 for n in range(200)]
    waiting = Waiting(batch_tokens=100, batch_wait_s=0.001)
    for name, size in enumerate(sizes):
        waiting.put(closed(size, name))
    seen: list[int] = []
    while len(seen) < len(sizes):
        batch = await waiting.batch()
        assert sum(each.tokens for each in batch) <= 100
        seen += [int(each.closed_at_s) for each in batch]
    assert seen == list(range(200))
