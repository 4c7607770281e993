"""What a member of the group knows of a partition's end."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import TopicPartition

from loggpt_stream.daemon.metrics import Metrics
from loggpt_stream.daemon.settings import DaemonSettings
from loggpt_stream.kafka.clients import Clients
from loggpt_stream.kafka.health import Health
from loggpt_stream.kafka.membership import Membership
from loggpt_stream.kafka.record_reader import RecordReader

if TYPE_CHECKING:
    from pathlib import Path

WHERE = TopicPartition("logs", 0)


class Consumer:
    """Says of one partition what aiokafka's consumer says after a fetch."""

    def __init__(self, end: int | None, fetched_before_s: float, position: int) -> None:
        self.assigned = {WHERE}
        self._end = end
        self._fetched_ms = round((time.time() - fetched_before_s) * 1000)
        self._position = position

    def assignment(self) -> set[TopicPartition]:
        return self.assigned

    def last_stable_offset(self, where: TopicPartition) -> int | None:
        assert where in self.assigned
        return self._end

    def last_poll_timestamp(self, where: TopicPartition) -> int:
        assert where in self.assigned
        return self._fetched_ms

    async def position(self, where: TopicPartition) -> int:
        assert where in self.assigned
        return self._position


def member(
    folder: Path, *, end: int | None = 10, fetched_before_s: float = 0.0, position: int = 10
) -> Membership[Any, Any]:
    settings = DaemonSettings(bundle=folder)
    health = Health(last_turn_s=time.time())
    health.broker_up = True
    clients = Clients(settings)
    found = Membership[Any, Any](
        settings,
        clients,
        RecordReader(settings.input_topic, clients.reader),
        application=SimpleNamespace(),
        publisher=SimpleNamespace(),
        metrics=Metrics(),
        health=health,
        clock=time.time,
    )
    found._consumer = Consumer(end, fetched_before_s, position)
    return found


def partition(position: int | None = 10) -> SimpleNamespace:
    owned = SimpleNamespace(position=position)
    owned.skip_to = lambda to: setattr(owned, "position", to)
    return owned


async def test_a_partition_read_to_the_end_of_a_fetch_just_made_is_caught_up(tmp_path: Path) -> None:
    assert await member(tmp_path).caught_up(WHERE, partition())


async def test_one_whose_end_is_ahead_or_unknown_is_not(tmp_path: Path) -> None:
    assert not await member(tmp_path, end=11).caught_up(WHERE, partition())
    assert not await member(tmp_path, end=None).caught_up(WHERE, partition())
    assert not await member(tmp_path).caught_up(WHERE, partition(None))


async def test_what_a_fetch_of_long_ago_saw_says_nothing_of_now(tmp_path: Path) -> None:
    # The process stood still, or a broker that leads the partition does: lines may wait there.
    assert not await member(tmp_path, fetched_before_s=5.0).caught_up(WHERE, partition())


async def test_nobody_knows_while_reading_is_paused_the_broker_is_away_or_another_member_has_it(tmp_path: Path) -> None:
    paused = member(tmp_path)
    paused.paused = True
    alone = member(tmp_path)
    alone._health.broker_up = False
    revoked = member(tmp_path)
    revoked._consumer.assigned = set()
    for each in (paused, alone, revoked):
        assert not await each.caught_up(WHERE, partition())


@pytest.mark.parametrize("ours", [True, False])
async def test_control_records_behind_the_last_record_are_passed_over_while_the_partition_is_ours(
    tmp_path: Path, *, ours: bool
) -> None:
    reading, owned = member(tmp_path, end=12, position=12), partition(10)
    if ours:
        reading.partitions[WHERE] = owned
    assert await reading.caught_up(WHERE, owned) is ours
    assert owned.position == (12 if ours else 10)
