"""One scenario: its topics and input, the daemons in it, and at its end the oracle's verdict."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from operator import attrgetter
from subprocess import TimeoutExpired
from typing import TYPE_CHECKING, Final, Self

from faults.oracle import Expectation, Verdict, expect, judge, published, read_committed, settled
from faults.workload import Workload
from testing.daemon_process import DaemonProcess, Topics

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Callable, Iterable
    from pathlib import Path

    from faults.cluster import Cluster
    from faults.failpoints import Failpoint
    from loggpt_stream.model.bundle import Bundle
    from testing.fork_server import ForkServer

# After how long the group misses a daemon: less than the daemon's default, so that takeovers are quick.
SESSION_TIMEOUT_S: Final = 6
_END_TIMEOUT_S: Final = 60.0
_MARKERS_WITHIN_S: Final = 30.0
# How long nothing new may come before what is missing counts as missing: a killed member's partitions are taken over
# after the session timeout, and a transaction that it left open is aborted after the transaction timeout.
_QUIET_S: Final = 60.0


@dataclass(slots=True)
class Bench:
    """What all scenarios share, from the start of the run to its end."""

    folder: Path
    cluster: Cluster
    fork_server: ForkServer
    bundle: Bundle
    began_s: float = field(default_factory=time.monotonic)

    def say(self, text: str) -> None:
        """Print progress, with the time since the run began."""
        print(f"{time.monotonic() - self.began_s:8.1f} s  {text}", flush=True)


class Trial:
    """From `begin` to `verdict`: daemons come and go, input flows, faults are counted.

    instance_id: under which one daemon after the other runs (static membership: the group waits for nobody); None where
    there are several at a time. faults: how many of which sort there have been. wrong: daemons that did not end as they
    should. None of these faults is a reason for a daemon to end: it waits for brokers, and takes over anew. Whoever
    gives it one (a scorer that hangs, a damaged state topic) waits for that end with `ended`.
    """

    def __init__(self, bench: Bench, name: str, *, topics: Topics, partitions: int, seed: int) -> None:
        self.name = name
        self.bench = bench
        self.topics = topics
        self.partitions = partitions
        self.daemons: list[DaemonProcess] = []
        self.instance_id: str | None = None
        self.faults: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._seed = seed
        self._stop = asyncio.Event()
        self._finished = False
        self._input: asyncio.Task[None]
        self._workload: Workload

    @property
    def all_topics(self) -> list[str]:
        """Return the names of the trial's topics."""
        topics = self.topics
        return [topics.input, topics.alerts, topics.dead_letters, topics.scores, topics.state]

    def transactional_id(self, partition: int) -> str:
        """Return under which id the daemon writes what comes of an input partition."""
        return f"{self.topics.group}-{self.topics.input}-{partition}"

    def start(
        self,
        *flags: str,
        bootstrap: str | None = None,
        failpoint: Failpoint | None = None,
        netns: str | None = None,
        http_host: str = "127.0.0.1",
        fault: str | None = None,
        bundle: Path | None = None,
    ) -> DaemonProcess:
        """Start one more daemon, with these flags beside those that every trial needs.

        fault: code that it runs first, to misbehave. bundle: another one than the bench's.
        """
        topics = replace(self.topics, bootstrap=bootstrap or self.topics.bootstrap)
        wanted = [
            *topics.flags(),
            "--bundle",
            str(bundle or self.bench.bundle.path),
            "--drift",
            "off",
            "--clock-speed",
            "1e-6",
        ]
        wanted += ["--session-timeout-s", str(SESSION_TIMEOUT_S), "--early-every-s", "0.3"]
        if self.instance_id:
            wanted += ["--instance-id", self.instance_id]
        # A trial shows what is delivered, not which lines were run, and coverage would slow it down.
        launch = partial(
            self.bench.fork_server.start, failpoint=failpoint, netns=netns, first=fault or "", measured=False
        )
        daemon = DaemonProcess(self.bench.folder, [*wanted, *flags], start=launch, http_host=http_host)
        self.daemons.append(daemon)
        return daemon

    def kill(self, daemon: DaemonProcess) -> None:
        """End a daemon with SIGKILL; that it had ended before is noted."""
        before = daemon.process.poll()
        daemon.process.kill()
        code = daemon.process.wait(_END_TIMEOUT_S)
        if before is not None or code != -signal.SIGKILL:
            self._note_end(daemon, code)
        self._forget(daemon)
        self.faults["kill -9"] += 1

    async def leave(self, daemon: DaemonProcess) -> None:
        """End a daemon with SIGTERM; anything but a clean end is noted.

        A failpoint that stops it may only be met on this way: so it is woken again and again.
        """
        waking = asyncio.create_task(_keep_awake(daemon))
        try:
            code = await daemon.terminate(_END_TIMEOUT_S)
        except Exception as error:  # noqa: BLE001 - a daemon that hangs is a finding, and the trial goes on to its verdict
            self.wrong.append(f"no end within {_END_TIMEOUT_S:.0f} s of SIGTERM: {daemon.log_path} ({error!r})")
            daemon.process.kill()
        else:
            if code != 0:
                self.wrong.append(f"exit code {code} after SIGTERM: {daemon.log_path}")
        finally:
            waking.cancel()
        self._forget(daemon)

    async def died(self, daemon: DaemonProcess, within_s: float) -> bool:
        """Wait for the end of a daemon that was started with a failpoint; tell whether it came."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while daemon.process.poll() is None:
                    await asyncio.sleep(0.02)
        code = daemon.process.poll()
        if code is None:
            return False
        if code != -signal.SIGKILL:
            self.wrong.append(f"exit code {code} where a failpoint was to end it: {daemon.log_path}")
        self._forget(daemon)
        return True

    async def died_or_ended(self, daemon: DaemonProcess, within_s: float) -> bool:
        """Wait for the end of a daemon after SIGTERM; tell whether its failpoint ended it and not the signal."""
        try:
            code = await asyncio.to_thread(daemon.process.wait, within_s)
        except TimeoutExpired:
            self.wrong.append(f"no end within {within_s:.0f} s of SIGTERM: {daemon.log_path}")
            daemon.process.kill()
            code = 0
        if code not in (0, -signal.SIGKILL):
            self.wrong.append(f"exit code {code} after SIGTERM: {daemon.log_path}")
        self._forget(daemon)
        return code == -signal.SIGKILL

    async def ended(self, daemon: DaemonProcess, code: int, within_s: float = _END_TIMEOUT_S) -> str:
        """Wait for a daemon that has every reason to end by itself, with this exit code; return its log."""
        found = await asyncio.to_thread(daemon.process.wait, within_s)
        log = daemon.log_path.read_text()
        if found != code:
            raise AssertionError(f"exit code {found}, not {code}; log:\n{log[-6000:]}")
        self._forget(daemon)
        return log

    def revive(self) -> int:
        """Start a daemon for each that has ended by itself, which is noted: a supervisor would hide it."""
        ended = [each for each in self.daemons if each.process.poll() is not None]
        for each in ended:
            self.faults["ended by itself"] += 1
            self._note_end(each, each.process.poll())
            self._forget(each)
            self.start()
        return len(ended)

    def begin(self, records_per_s: float) -> None:
        """Let input flow at this rate until `verdict`."""
        self._input = asyncio.create_task(self._workload.keep_sending(records_per_s, self._stop))

    async def send(self, records: int) -> None:
        """Send so many records of input at once."""
        await self._workload.send(records)

    async def put(self, values: Iterable[bytes | None], *, late_s: float = 0.0, partition: int = 0) -> None:
        """Send these records, dated (by Kafka) so long before the newest one."""
        await self._workload.put(values, late_s=late_s, partition=partition)

    def at(self, instance: str, text: str, *, late_s: float = 0.0) -> bytes:
        """Return a line of an instance, dated (by itself) so long before the newest record."""
        return self._workload.line(instance, text, late_s=late_s)

    async def finish_input(self) -> None:
        """End the input with the lines that close all sessions; nothing where that was done."""
        if self._finished:
            return
        self._finished = True
        if hasattr(self, "_input"):
            self._stop.set()
            await self._input
        await self._workload.close()

    async def verdict(self, awaited: Callable[[Verdict], bool] = attrgetter("ok")) -> Verdict:
        """End the input, let one daemon more finish what is left, end all, and return the oracle's verdict.

        awaited: what it has to fulfil to be looked at no longer.
        """
        await self.finish_input()
        for daemon in self.daemons:
            daemon.process.send_signal(signal.SIGCONT)
        if not (self.instance_id and self.daemons):
            self.start()
        topics = self.topics
        records = read_committed(topics.bootstrap, topics.input)
        expected = await asyncio.to_thread(expect, records, self.bench.bundle)
        self.bench.say(
            f"{self.name}: {expected.records:,} records, {len(expected.sessions):,} sessions expected; "
            f"{dict(self.faults)}"
        )
        await settled(topics, expected, _QUIET_S)
        for daemon in list(self.daemons):
            code = daemon.process.poll()
            if code is None:
                await self.leave(daemon)
            elif code != 0:
                self._note_end(daemon, code)
        told = await verdict(topics, expected, awaited)
        if self.wrong:
            told.findings["daemons that did not end as they should"] = self.wrong
        return told

    def _note_end(self, daemon: DaemonProcess, code: int | None) -> None:
        self.wrong.append(f"ended by itself with exit code {code}: {daemon.log_path}")

    def _forget(self, daemon: DaemonProcess) -> None:
        self.daemons.remove(daemon)

    async def __aenter__(self) -> Self:
        self._workload = Workload(self.topics.bootstrap, self.topics.input, self.partitions, seed=self._seed)
        await self._workload.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        if hasattr(self, "_input"):
            self._input.cancel()
        for daemon in self.daemons:
            daemon.process.kill()
        await self._workload.__aexit__()


async def verdict(
    topics: Topics, expected: Expectation, awaited: Callable[[Verdict], bool] = attrgetter("ok")
) -> Verdict:
    """Return the oracle's verdict once it is as `awaited`, or after a while.

    Markers of the last transactions may take a moment to be written, after the daemon has ended too.
    """
    deadline_s = time.monotonic() + _MARKERS_WITHIN_S
    while True:
        told = judge(expected, await asyncio.to_thread(published, topics))
        if awaited(told) or time.monotonic() > deadline_s:
            return told
        await asyncio.sleep(2.0)


async def _keep_awake(daemon: DaemonProcess) -> None:
    while daemon.process.poll() is None:
        daemon.process.send_signal(signal.SIGCONT)
        await asyncio.sleep(1.0)


@asynccontextmanager
async def trial(
    bench: Bench, name: str, rng: random.Random, *, partitions: int = 4, cluster: Cluster | None = None
) -> AsyncIterator[Trial]:
    """Yield a trial with topics of its own on the bench's cluster, or on another one."""
    bootstrap = (cluster or bench.cluster).bootstrap
    topics = await Topics.create(bootstrap, partitions=partitions)
    async with Trial(bench, name, topics=topics, partitions=partitions, seed=rng.randrange(2**31)) as running:
        yield running
