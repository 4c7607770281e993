"""The thirteen fault cases of the delivery design, each by its number, on three real brokers with real daemons.

Here those of daemons and brokers that die, stop, come and go; the others are in test_cases_06_to_13.py, so that two
test processes can share them. Every case ends with the oracle: an offline pass over the same input beside a
`read_committed` reading of what was published. They are small here; `make faults` runs the same at length, and its
results are in docs/reports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from faults import scenarios
from faults.failpoints import daemon_targets, enumerate_points
from faults.scenarios import Size, die_at
from tests.faults.chance import chance

if TYPE_CHECKING:
    from faults.failpoints import When
    from faults.trial import Bench

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_case_01_kill_9_at_random_moments(bench: Bench) -> None:
    outcome = await scenarios.kill9(bench, chance(1), Size(rounds=3, minutes=0))
    assert outcome.verdict.ok, outcome.verdict.text()
    assert outcome.faults["kill -9"] == 3
    # What the oracle says of early alerts is only worth something where there are any.
    assert outcome.verdict.early > 0


# Where no life of a healthy daemon among healthy brokers comes by, and why.
_UNREACHED = {
    "PartitionTask.restore:2:await self._log.confirm()": "only where the state looks damaged",
    "TransactionalLog.confirm:1:await self._barrier()": "the same",
    "await input_recreated()": "only where a topic was made anew",
    "await self._pause(pause_s)": "only after a failure, or where the group has given the partition away",
    "await _end_asked_again(consumer, where, position, end)": "only where a topic was made anew",
    "await self._send_bulk(each)": "of the router, whose own tests kill it",
    "await self._producer.partitions_for(bulk.topic)": "the same",
    "await self._producer.send_batch(batch, bulk.topic, partition=place)": "the same",
}
_MODULES = ("partition_task", "start_position", "transactions", "changelog", "publisher", "record_reader")
_FUNCTIONS = ("start_reading",)
_NOT_OF_COMMIT = (
    "stop_client",
    "_cut_off",
    "_end_asked_again",
    "PartitionTask._end_life_soon",
    "PartitionTask._pause",
    "PartitionTask._due",
)


def points_of_commit_and_restore() -> list[str]:
    """Return every await of what commits and restores, as it stands in the source."""
    found = []
    for point in enumerate_points(daemon_targets()):
        module, function, *_ = point.split(":")
        module = module.rpartition(".")[2]
        named = module in _MODULES or function.partition(".")[2].partition(".")[0] in _FUNCTIONS
        if named and not any(function.startswith(each) for each in _NOT_OF_COMMIT):
            found.append(point)
    return found


@pytest.mark.timeout(900)  # more than forty lives, one after the other
async def test_case_02_a_kill_at_every_await_of_commit_and_restore(bench: Bench) -> None:
    points = points_of_commit_and_restore()
    assert {name for name in _UNREACHED if not any(point.endswith(name) for point in points)} == set()
    wanted: list[tuple[str, When]] = [(point, "before") for point in points if not point.endswith(tuple(_UNREACHED))]
    assert len(wanted) > 40
    outcome = await die_at(bench, chance(2), Size(0, 0), wanted)
    assert outcome.verdict.ok, outcome.verdict.text()
    # A new await that no daemon comes by is a hole in this test: say above why that is so, or change the test.
    assert outcome.unreached == []


async def test_case_03_a_daemon_stopped_past_the_session_timeout_commits_nothing_when_it_wakes(bench: Bench) -> None:
    # Each second one stops between two steps of a transaction.
    size = Size(rounds=2, minutes=0, points=r"TransactionalLog\._write")
    outcome = await scenarios.zombies(bench, chance(3), size)
    assert outcome.verdict.ok, outcome.verdict.text()
    assert outcome.fenced > 0


async def test_case_04_brokers_are_restarted_one_after_the_other(bench: Bench) -> None:
    outcome = await scenarios.rolling(bench, chance(4), Size(rounds=1, minutes=0))
    assert outcome.verdict.ok, outcome.verdict.text()


async def test_case_04_leaders_of_transaction_and_state_are_killed(bench: Bench) -> None:
    outcome = await scenarios.leaders(bench, chance(4), Size(rounds=2, minutes=0))
    assert outcome.verdict.ok, outcome.verdict.text()


async def test_case_05_a_storm_of_rebalances(bench: Bench) -> None:
    outcome = await scenarios.storm(bench, chance(5), Size(rounds=2, minutes=0))
    assert outcome.verdict.ok, outcome.verdict.text()
