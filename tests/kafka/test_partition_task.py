"""A partition's task: its states, how it takes failures, and what it does with a state that cannot be."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, ProducerFenced, TopicAuthorizationFailedError

from loggpt_stream.daemon.metrics import Metrics
from loggpt_stream.daemon.state_formats import STATE_FORMATS
from loggpt_stream.errors import UserError
from loggpt_stream.kafka import partition_task
from loggpt_stream.kafka.changelog import Changelog
from loggpt_stream.kafka.partition_task import PartitionTask, PendingCommit, TaskOptions, TaskState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from loggpt_stream.kafka.transactions import Bulk, Outgoing
    from loggpt_stream.message import Message

WHERE = TopicPartition("input", 0)
OPTIONS = TaskOptions(interval_s=0.001, commit_within_s=1.0)
CLOSES_DURING = 3


def new_changelog() -> Changelog:
    return Changelog("group input", STATE_FORMATS)


class State:
    """A partition of which something is always to be committed."""

    def __init__(self) -> None:
        self.position: int | None = 7
        self.last_record: tuple[int, int] | None = None
        self.dropped = False

    def restore(self, changes: list[Any]) -> None:
        """Nothing depends on it."""

    def begin_at(self, position: int) -> None:
        """Nothing depends on it."""

    def skip_to(self, position: int) -> None:
        """Nothing depends on it."""

    def take(self) -> PendingCommit:
        return PendingCommit(7, [])


class Publisher:
    """Publishes nothing, and keeps what it was told."""

    def __init__(self) -> None:
        self.small: list[bool] = []
        self.transactions = 0

    async def compose(self, partition: State, pending: PendingCommit, *, small: bool) -> list[Outgoing]:
        del partition, pending
        self.small.append(small)
        return []

    def committed(self, pending: PendingCommit) -> None:
        del pending
        self.transactions += 1


class Bench:
    """A task, and what is around it: log and group. Commits fail where `fails` says so, by their number."""

    def __init__(
        self,
        fails: Callable[[int], bool] = lambda _: False,
        error: KafkaError | None = None,
        records: list[tuple[bytes | None, bytes | None]] | None = None,
        *,
        replaced: bool = False,
    ) -> None:
        self.committed: dict[TopicPartition, int] = {}
        self.fails = fails
        self.error = error or KafkaError("no")
        self.records = records or []
        self.replaced = replaced
        self.commits = self.confirmed = self.closed = 0
        self.read: list[State] = []
        self.publisher = Publisher()
        self.task: PartitionTask[State, PendingCommit] = PartitionTask(
            WHERE,
            new_changelog=new_changelog,
            new_partition=lambda _where, _changelog: State(),
            open_log=lambda: self,
            publisher=self.publisher,
            reading=self,
            metrics=Metrics(),
            options=OPTIONS,
        )

    async def take_over(self) -> list[tuple[bytes | None, bytes | None]]:
        assert self.task.state is TaskState.RESTORING
        return self.records

    async def confirm(self) -> None:
        self.confirmed += 1
        if self.replaced:
            raise ProducerFenced

    async def commit(self, outgoing: Iterable[Outgoing | Bulk], state: Iterable[Message]) -> None:
        del outgoing, state
        assert self.task.state is TaskState.RUNNING
        self.commits += 1
        if self.fails(self.commits):
            raise self.error

    async def close(self) -> None:
        self.closed += 1

    async def start_reading(self, where: TopicPartition, partition: State) -> None:
        assert where == WHERE
        self.read.append(partition)

    def stop_reading(self, where: TopicPartition, partition: State) -> None:
        assert where == WHERE
        assert not partition.dropped  # what is read goes to it up to here

    def broker_is_up(self) -> bool:
        return True

    async def run_until(self, happened: Callable[[], bool]) -> asyncio.Task[None]:
        running = asyncio.create_task(self.task.run())
        async with asyncio.timeout(20):
            while not (happened() or running.done()):
                await asyncio.sleep(0.005)
        assert not running.done()
        return running


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_BACKOFF_S", "_MAX_BACKOFF_S", "_LEAST_INTERVAL_S"):
        monkeypatch.setattr(partition_task, name, 0.001)


async def test_a_task_is_assigned_then_runs_and_is_closed_after_one_more_commit() -> None:
    bench = Bench()
    states = [bench.task.state]
    running = await bench.run_until(lambda: bench.commits > 2)
    states.append(bench.task.state)
    before = bench.commits
    bench.task.close()
    await running
    states.append(bench.task.state)
    assert states == [TaskState.ASSIGNED, TaskState.RUNNING, TaskState.CLOSED]
    assert bench.commits > before
    assert bench.committed == {WHERE: 7}
    assert bench.publisher.transactions == bench.commits
    assert bench.closed == 1
    assert bench.task.partition.dropped


async def test_what_comes_while_the_last_transaction_is_under_way_is_committed_too() -> None:
    bench = Bench()

    def closes(number: int) -> bool:
        if number == CLOSES_DURING:
            bench.task.close()
        return False

    bench.fails = closes
    async with asyncio.timeout(20):
        await bench.task.run()
    assert bench.commits == CLOSES_DURING + 1
    assert bench.task.state is TaskState.CLOSED


async def test_each_life_has_a_state_of_its_own_and_the_one_before_is_dropped() -> None:
    bench = Bench(lambda number: number == 3)
    running = await bench.run_until(lambda: bench.commits > 5)
    first, second = bench.read
    assert first is not second
    assert first.dropped
    assert not second.dropped
    bench.task.close()
    await running


async def test_failures_with_successes_between_them_are_forgotten() -> None:
    bench = Bench(lambda number: number % 3 == 0)
    running = await bench.run_until(lambda: bench.commits >= 90)
    bench.task.close()
    await running
    assert bench.closed > 20


async def test_ten_failures_in_a_row_end_it_and_it_says_during_what() -> None:
    bench = Bench(lambda number: number > 1)
    with pytest.raises(KafkaError, match="partition 0: 10 failures in a row, the last of them while a transaction"):
        async with asyncio.timeout(20):
            await bench.task.run()
    assert bench.closed == 10


async def test_what_is_not_allowed_ends_it_and_names_the_rights_of_daemon_and_router() -> None:
    bench = Bench(lambda number: number > 1, TopicAuthorizationFailedError("output"))
    with pytest.raises(UserError, match=r"partition 0: .*output.*acls\.sh .*daemon with `run`.*router with `route`"):
        async with asyncio.timeout(20):
            await bench.task.run()


async def test_after_a_message_that_was_too_large_the_next_life_asks_for_small_ones() -> None:
    bench = Bench(lambda number: number == 1, MessageSizeTooLargeError("1 MiB"))
    running = await bench.run_until(lambda: bench.commits > 2)
    assert bench.publisher.small[:2] == [False, True]
    bench.task.close()
    await running


async def test_where_even_small_messages_are_too_large_it_ends_and_says_what_to_set() -> None:
    bench = Bench(lambda _: True, MessageSizeTooLargeError("1 MiB"))
    with pytest.raises(UserError, match=r"even in its smallest form.*max\.message\.bytes"):
        async with asyncio.timeout(20):
            await bench.task.run()


def without_snapshot() -> list[tuple[bytes | None, bytes | None]]:
    """Return a state topic that lacks its snapshot."""
    changelog = new_changelog()
    changelog.write({}, snapshot=True)
    (change,) = changelog.write({}, snapshot=False)
    return [(change.key, change.value)]


@pytest.mark.parametrize(("replaced", "raised"), [(True, ProducerFenced), (False, UserError)])
async def test_a_state_that_lacks_something_is_damaged_only_if_nobody_replaced_us(
    replaced: bool, raised: type[Exception]
) -> None:
    bench = Bench(records=without_snapshot(), replaced=replaced)
    with pytest.raises(raised):
        await bench.task.restore()
    assert bench.confirmed == 1
