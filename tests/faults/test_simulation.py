"""Two thousand histories of one partition hold the promise, and histories of a broken Kafka or daemon do not."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from faults.simulation import Simulation, ViolationError, undisturbed
from loggpt_stream.daemon.partition import Partition
from loggpt_stream.errors import UserError
from loggpt_stream.kafka.changelog import BARRIER
from loggpt_stream.kafka.transactions import TransactionalLog

if TYPE_CHECKING:
    from collections.abc import Iterable

    from loggpt_stream.kafka.changelog import Change
    from loggpt_stream.kafka.transactions import Outgoing

pytestmark = pytest.mark.slow  # it runs thousands of histories

_SEEDS_OF_BROKEN = 400


# Coverage would make it three times as long; a loaded machine may take minutes all the same.
@pytest.mark.no_cover
@pytest.mark.timeout(900)
# A seed has nothing to shrink, and is all that is needed: python -m faults.simulation --seed N tells it step by step.
@given(seed=st.integers(0, 2**40))
@example(seed=0)
@settings(max_examples=2_000, deadline=None, phases=[Phase.explicit, Phase.generate], database=None)
def test_whatever_happens_each_session_is_scored_once_and_whole(seed: int) -> None:
    try:
        Simulation(seed).run()
    except Exception as error:
        raise AssertionError(f"again: python -m faults.simulation --seed {seed}") from error


def fails(*, fences: bool = True) -> bool:
    """Tell whether one of some histories breaks the promise."""
    for seed in range(_SEEDS_OF_BROKEN):
        try:
            Simulation(seed, fences=fences).run()
        except (ViolationError, UserError):
            return True
    return False


def test_without_fencing_the_promise_is_broken() -> None:
    assert fails(fences=False)


def test_a_commit_that_does_not_wait_for_its_deliveries_breaks_the_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    async def careless(self: TransactionalLog, outgoing: Iterable[Outgoing]) -> list[Any]:
        await self._producer.begin_transaction()
        sent = []
        for each in outgoing:
            key, value = each.message.key, each.message.value
            sent.append(await self._producer.send(each.topic, value, key=key, partition=each.partition, headers=[]))
        said = [await each for each in sent] if key == BARRIER else []
        await self._producer.commit_transaction()
        return said

    monkeypatch.setattr(TransactionalLog, "_commit", careless)
    assert fails()


def test_a_restart_that_forgets_what_was_closed_and_not_judged_breaks_the_promise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    restore = Partition.restore

    def forgetful(self: Partition, changes: list[Change]) -> None:
        restore(self, changes)
        self.pending.clear()

    monkeypatch.setattr(Partition, "restore", forgetful)
    assert fails()


def test_a_restart_one_record_too_far_breaks_the_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    restore = Partition.restore

    def hasty(self: Partition, changes: list[Change]) -> None:
        restore(self, changes)
        self.position = None if self.position is None else self.position + 1

    monkeypatch.setattr(Partition, "restore", hasty)
    assert fails()


def test_a_history_tells_its_steps_and_is_the_same_each_time() -> None:
    command = [sys.executable, "-m", "faults.simulation", "--seed", "7"]
    first, second = (subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2))
    assert "has taken over at" in first
    assert first == second


def test_histories_have_sessions_dead_letters_and_tracebacks() -> None:
    seen = [undisturbed(Simulation(seed).input) for seed in range(50)]
    assert all(len(each["scores"]) >= 2 for each in seen)
    assert sum(bool(each["dead"]) for each in seen) > 10
    assert sum(b"KeyError" in score for each in seen for score in each["scores"]) > 5
