"""How a tenure takes failures: one by one it forgets them, in a row they end the daemon."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, TopicAuthorizationFailedError

from loggpt_stream.errors import UserError
from loggpt_stream.kafka import tenure as tenures
from loggpt_stream.kafka.tenure import Tenure

if TYPE_CHECKING:
    from collections.abc import Callable

WHERE = TopicPartition("input", 0)


class Host:
    """Gives owners whose commits fail where `fails` says so, by their number."""

    def __init__(self, fails: Callable[[int], bool], error: KafkaError | None = None) -> None:
        self.fails = fails
        self.error = error or KafkaError("no")
        self.commits = 0
        self.closed: list[bool] = []

    def owner(self, where: TopicPartition, *, small: bool) -> Any:
        del where, small
        return Owner(self)

    async def begin(self, where: TopicPartition, partition: Any) -> None:
        """Nothing to be read."""

    def end(self, where: TopicPartition, partition: Any) -> None:
        """Nothing was read."""

    def committed(self, where: TopicPartition, unsaved: Any, took_s: float) -> None:
        """Nothing to count."""

    def broker_is_up(self) -> bool:
        return True


class Owner:
    def __init__(self, host: Host) -> None:
        self.host = host
        self.partition = None

    async def take_over(self) -> None:
        """Nobody was there before."""

    async def commit(self) -> str:
        self.host.commits += 1
        if self.host.fails(self.host.commits):
            raise self.host.error
        return "something"

    async def close(self) -> None:
        self.host.closed.append(True)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_BACKOFF_S", "_MAX_BACKOFF_S", "_LEAST_INTERVAL_S"):
        monkeypatch.setattr(tenures, name, 0.001)


async def test_failures_with_successes_between_them_are_forgotten() -> None:
    host = Host(lambda number: number % 3 == 0)
    tenure: Tenure[Any, Any] = Tenure(WHERE, host, interval_s=0.001, commit_within_s=1.0)
    running = asyncio.create_task(tenure.run())
    async with asyncio.timeout(20):
        while host.commits < 90 and not running.done():
            await asyncio.sleep(0.01)
    assert not running.done()
    tenure.end()
    await running
    assert len(host.closed) > 20


async def test_ten_failures_in_a_row_end_it_and_it_says_during_what() -> None:
    host = Host(lambda number: number > 1)
    tenure: Tenure[Any, Any] = Tenure(WHERE, host, interval_s=0.001, commit_within_s=1.0)
    with pytest.raises(KafkaError, match="partition 0: 10 failures in a row, the last of them while a transaction"):
        async with asyncio.timeout(20):
            await tenure.run()
    assert len(host.closed) == 10


async def test_what_is_not_allowed_ends_it_and_names_the_rights_of_daemon_and_router() -> None:
    host = Host(lambda number: number > 1, TopicAuthorizationFailedError("output"))
    tenure: Tenure[Any, Any] = Tenure(WHERE, host, interval_s=0.001, commit_within_s=1.0)
    with pytest.raises(UserError, match=r"partition 0: .*output.*acls\.sh .*daemon with `run`.*router with `route`"):
        async with asyncio.timeout(20):
            await tenure.run()
