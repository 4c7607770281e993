"""A daemon that ends by itself is a finding, whoever comes across it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from faults.trial import Bench, Trial
from testing.daemon_process import Topics

if TYPE_CHECKING:
    from pathlib import Path

    from faults.cluster import Cluster
    from loggpt_stream.model.bundle import Bundle
    from testing.fork_server import ForkServer


@pytest.fixture
def hopeless(tmp_path: Path, fork_server: ForkServer) -> Trial:
    """A trial whose daemons end at once, since there is no bundle; it needs no broker."""
    bundle = cast("Bundle", SimpleNamespace(path=tmp_path / "nowhere"))
    topics = Topics("127.0.0.1:1", "input", "alerts", "dead", "scores", "state", "group")
    bench = Bench(tmp_path, cast("Cluster", None), fork_server, bundle)
    return Trial(bench, "hopeless", topics=topics, partitions=1, seed=1)


async def test_one_that_is_revived_is_noted_with_its_exit_code_and_its_log(hopeless: Trial) -> None:
    daemon = hopeless.start()
    await asyncio.to_thread(daemon.process.wait, 60)
    assert hopeless.revive() == 1
    assert hopeless.wrong == [f"ended by itself with exit code 2: {daemon.log_path}"]
    assert daemon not in hopeless.daemons
    assert len(hopeless.daemons) == 1


async def test_one_that_had_ended_before_it_was_killed_is_noted(hopeless: Trial) -> None:
    daemon = hopeless.start()
    await asyncio.to_thread(daemon.process.wait, 60)
    hopeless.kill(daemon)
    assert hopeless.wrong == [f"ended by itself with exit code 2: {daemon.log_path}"]


async def test_one_that_was_expected_to_end_is_not(hopeless: Trial) -> None:
    assert "There is no bundle" in await hopeless.ended(hopeless.start(), 2)
    assert hopeless.wrong == []
    with pytest.raises(AssertionError, match="exit code 2, not 1"):
        await hopeless.ended(hopeless.start(), 1)
