"""Daemons of 0.1.0 and of the code here in one group, one after the other killed and replaced: nothing lost or double.

The released package runs from its archive (tests/golden), with a bundle that it wrote itself.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson
import pytest

from faults.oracle import expect, judge, published, read_committed, settled
from faults.workload import Workload
from loggpt_stream import __version__
from loggpt_stream.model.bundle import load_bundle
from testing.daemon_process import DaemonProcess, Topics, fork, read_all
from testing.make_golden_bundle import golden_bundle
from testing.make_golden_state import released_code

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from testing.daemon_process import Process
    from testing.kafka_server import KafkaServer

PARTITIONS = 2
SESSION_TIMEOUT_S = 2
RECORDS_PER_S = 100


@dataclass(frozen=True)
class Upgrade:
    """Topics, bundle and flags that all daemons of the test share."""

    folder: Path
    topics: Topics
    bundle: Path
    old_code: Path

    def start(self, start: Callable[[list[str], Path], Process] = fork, *more: str) -> DaemonProcess:
        flags = ["--bundle", str(self.bundle), "--drift", "off", "--clock-speed", "1e-6"]
        flags += ["--session-timeout-s", str(SESSION_TIMEOUT_S)]
        return DaemonProcess(self.folder, [*self.topics.flags(), *flags, *more], start=start)

    def start_old(self) -> DaemonProcess:
        def released(arguments: list[str], log_path: Path) -> Process:
            with log_path.open("wb") as log:
                return subprocess.Popen(
                    ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "loggpt_stream", *arguments],
                    stderr=log,
                    # Where it is started matters too: `-m` looks there first.
                    cwd=self.old_code,
                    env={**os.environ, "PYTHONPATH": str(self.old_code), "OMP_NUM_THREADS": "1"},
                )

        return self.start(released)

    async def written(self) -> list[tuple[int, int, str]]:
        """Return of each record of the state topic its partition, its format and the version that wrote it."""
        found = []
        for record in await read_all(self.topics.bootstrap, self.topics.state):
            if record.key != b"barrier":
                place = orjson.loads(record.value.partition(b"\n")[0])
                found.append((record.partition, place.get("state_format", 1), place.get("writer", "0.1.0")))
        return found

    async def formats(self) -> dict[int, int]:
        """Return the format of each state partition's newest record."""
        return {partition: state_format for partition, state_format, _ in await self.written()}

    async def all_in(self, wanted: int, within_s: float = 60.0) -> None:
        """Wait until the state of each partition is in this format."""
        deadline_s = time.monotonic() + within_s
        found = await self.formats()
        while set(found.values()) != {wanted} or len(found) < PARTITIONS:
            assert time.monotonic() < deadline_s, found
            await asyncio.sleep(0.5)
            found = await self.formats()


@pytest.fixture
async def upgrade(kafka: KafkaServer, tmp_path: Path) -> Upgrade:
    old_code = tmp_path / "old"
    with tarfile.open(released_code("0.1.0")) as archive:
        archive.extractall(old_code, filter="data")
    topics = await Topics.create(kafka.bootstrap, partitions=PARTITIONS)
    return Upgrade(tmp_path, topics, golden_bundle("0.1.0", tmp_path), old_code)


def kill(daemon: DaemonProcess) -> None:
    daemon.process.kill()
    daemon.process.wait()


async def owns_something(daemon: DaemonProcess) -> None:
    await daemon.saw("partition_taken_over")
    await daemon.ready()


def taken_over(daemon: DaemonProcess) -> int:
    return sum(each["event"] == "partition_taken_over" for each in daemon.events())


async def takes_over(daemon: DaemonProcess, more_than: int, within_s: float = 30.0) -> None:
    """Wait until a daemon has taken partitions over more often than before."""
    deadline_s = time.monotonic() + within_s
    while taken_over(daemon) <= more_than:
        assert time.monotonic() < deadline_s, daemon.log_path.read_text()[-6000:]
        await asyncio.sleep(0.1)


async def test_a_rolling_upgrade_with_kills_loses_nothing_and_ends_in_the_new_format(upgrade: Upgrade) -> None:
    topics = upgrade.topics
    stop = asyncio.Event()
    async with Workload(topics.bootstrap, topics.input, PARTITIONS, seed=15) as workload:
        load = asyncio.create_task(workload.keep_sending(RECORDS_PER_S, stop))
        with upgrade.start_old() as old_one, upgrade.start_old() as old_two:
            await asyncio.gather(owns_something(old_one), owns_something(old_two))
            kill(old_one)
            with upgrade.start() as new_one:
                await owns_something(new_one)
                held_back = await new_one.saw("state_format_held_back")
                assert held_back["state_format"] == 1
                # Both are at work on state that both read; the old one gets back what the new one had, and goes on.
                before = taken_over(old_two)
                kill(new_one)
                await takes_over(old_two, before)
                with upgrade.start() as new_two:
                    await owns_something(new_two)
                    assert set((await upgrade.formats()).values()) == {1}
                    kill(old_two)
                    with upgrade.start() as new_three:
                        await owns_something(new_three)
                        await upgrade.all_in(2)
                        kill(new_two)
                        stop.set()
                        await load
                        await workload.close()
                        await end(upgrade)
                        assert new_three.process.poll() is None
    # All three ways to write were there, and the released version went on from what the new one wrote.
    assert {each[1:] for each in await upgrade.written()} == {(1, "0.1.0"), (1, __version__), (2, __version__)}


async def end(upgrade: Upgrade) -> None:
    """Compare what came out with an offline pass over all that came in."""
    topics = upgrade.topics
    expected = expect(read_committed(topics.bootstrap, topics.input), load_bundle(upgrade.bundle))
    await settled(topics, expected)
    verdict = judge(expected, published(topics))
    assert verdict.sessions > 20
    assert verdict.ok, verdict.text()


async def test_state_in_the_new_format_goes_back_to_0_1_0_by_a_setting(upgrade: Upgrade) -> None:
    topics = upgrade.topics
    async with Workload(topics.bootstrap, topics.input, PARTITIONS, seed=16) as workload:
        await workload.send(400)
        with upgrade.start() as new:
            await new.reached("loggpt_records_total", 400)
            await upgrade.all_in(2)
            assert await new.terminate() == 0
        with upgrade.start_old() as refused:
            # It says that the topic is damaged; what matters is that it touches nothing.
            assert await asyncio.to_thread(refused.process.wait, 60) != 0
        with upgrade.start(fork, "--state-format", "1") as back:
            await back.saw("partition_taken_over")
            await upgrade.all_in(1)
            assert await back.terminate() == 0
        with upgrade.start_old() as old:
            await owns_something(old)
            await workload.send(400)
            await workload.close()
            await end(upgrade)
