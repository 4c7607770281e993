"""The daemon as its users run it: a process of its own, watched through its HTTP port and its log."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol, Self

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from testing.fork_server import ForkServer
from testing.kafka_server import create_topic, unique_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

_START_TIMEOUT_S = 90.0
_DECIDED_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Topics:
    """Topics and group of one test."""

    bootstrap: str
    input: str
    alerts: str
    dead_letters: str
    scores: str
    state: str
    group: str

    @classmethod
    async def create(cls, bootstrap: str, *, partitions: int = 1) -> Topics:
        """Create fresh topics; `partitions` for the input."""
        names = [unique_name(stem) for stem in ("input", "alerts", "dead", "scores", "state")]
        for name in names:
            of_input = name in (names[0], names[4])
            configs = {"cleanup.policy": "compact"} if name == names[4] else {}
            await create_topic(bootstrap, name, partitions=partitions if of_input else 1, configs=configs)
        return cls(bootstrap, names[0], names[1], names[2], names[3], names[4], unique_name("group"))

    def flags(self) -> list[str]:
        """Return the daemon's flags for these topics."""
        return [
            *("--kafka.bootstrap", self.bootstrap, "--input-topic", self.input, "--alert-topic", self.alerts),
            *("--dead-letter-topic", self.dead_letters, "--score-topic", self.scores, "--group", self.group),
            *("--state-topic", self.state),
        ]


class Process(Protocol):
    """What a daemon's process can be asked: as of `subprocess.Popen`."""

    @property
    def pid(self) -> int:
        """Return its process id."""
        ...

    def poll(self) -> int | None:
        """Return its exit code, or None while it runs."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return its exit code."""
        ...

    def send_signal(self, sig: int) -> None:
        """Send it a signal; nothing where it has ended."""
        ...

    def kill(self) -> None:
        """Send it SIGKILL."""
        ...


def own_process(arguments: list[str], log_path: Path) -> Process:
    """Start `loggpt-stream` with these arguments and its standard error in a file."""
    with log_path.open("wb") as log:
        # It dies with the process that started it, however that ends.
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "loggpt_stream", *arguments],
            stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


@cache
def fork_server() -> ForkServer:
    """Return the process that this test process's daemons are forked from; it ends with it."""
    return ForkServer().__enter__()


def fork(arguments: list[str], log_path: Path) -> Process:
    """Start `loggpt-stream` likewise, without the seconds that importing PyTorch takes.

    What a process does after its last line of Python cannot be seen of it: it ends at once.
    """
    return fork_server().start(arguments, log_path)


def with_fault(fault: str) -> Callable[[list[str], Path], Process]:
    """Return what forks a daemon that runs this code first, to make something of its own misbehave."""
    return lambda arguments, log_path: fork_server().start(arguments, log_path, first=fault)


class DaemonProcess:
    """`loggpt-stream run` from start to exit. The log goes to a file that a failing test can show."""

    command: tuple[str, ...] = ("run", "--threads", "1")
    starting = "daemon_starting"

    def __init__(
        self,
        folder: Path,
        flags: Iterable[str],
        *,
        start: Callable[[list[str], Path], Process] = fork,
        http_host: str = "127.0.0.1",
    ) -> None:
        """Start it. `flags` come after the ones that every test wants. `http_host`: where its metrics are."""
        self.log_path = folder / f"{unique_name('daemon')}.log"
        self._http_host = http_host
        wanted = ["--http-port", "0", "--http-host", http_host, "--log-format", "json", "--commit-interval-s", "0.3"]
        self.process = start([*self.command, *wanted, *flags], self.log_path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def events(self) -> list[dict[str, Any]]:
        """Return the log events so far."""
        # The last line may be half written.
        lines = self.log_path.read_bytes().rpartition(b"\n")[0].splitlines()
        return [orjson.loads(line) for line in lines if line.startswith(b"{")]

    async def saw(self, event: str, timeout_s: float = _START_TIMEOUT_S) -> dict[str, Any]:
        """Wait for a log event and return it."""
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            for each in self.events():
                if each["event"] == event:
                    return each
            if self.process.poll() is not None:
                break
            await asyncio.sleep(0.1)
        raise AssertionError(f"no {event}, exit code {self.process.poll()}; log:\n{self.log_path.read_text()[-6000:]}")

    async def get(self, path: str) -> tuple[int, str]:
        """Return status and body of a GET from the daemon's HTTP port."""
        port = (await self.saw(self.starting))["http_port"]
        return await asyncio.to_thread(_get, f"http://{self._http_host}:{port}{path}")

    async def metric(self, name: str) -> float:
        """Return a metric, summed over its labels."""
        _, text = await self.get("/metrics")
        return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))

    async def reached(self, name: str, value: float, timeout_s: float = 120.0) -> None:
        """Wait until a metric is at least `value`; the time that the start takes does not count."""
        await self.saw(self.starting)
        deadline_s = time.monotonic() + timeout_s
        found: float | None = None
        while True:
            # One that is about to end hangs up; the log then says more than the refused connection.
            with suppress(OSError):
                found = await self.metric(name)
            if found is not None and found >= value:
                return
            code = self.process.poll()
            if code is not None or time.monotonic() > deadline_s:
                log = self.log_path.read_text()[-6000:]
                raise AssertionError(f"{name} is {found}, not {value}; exit code {code}; log:\n{log}")
            await asyncio.sleep(0.1)

    async def ready(self) -> None:
        """Wait until the daemon says that it is ready."""
        await self.saw("partitions_assigned")
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while (await self.get("/health/ready"))[0] != HTTPStatus.OK:
            assert time.monotonic() < deadline_s, self.log_path.read_text()[-6000:]
            await asyncio.sleep(0.1)

    async def terminate(self, timeout_s: float = 40.0) -> int:
        """Send SIGTERM and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(self.process.wait, timeout_s)


class RouteProcess(DaemonProcess):
    """`loggpt-stream route`, likewise."""

    command: tuple[str, ...] = ("route",)
    starting = "route_starting"


def _get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - our own daemon on this machine
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


async def produce(
    bootstrap: str, topic: str, values: Iterable[bytes | None], *, partition: int | None = 0, pace_s: float = 0.0
) -> None:
    """Write records in order, optionally one every `pace_s`."""
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, linger_ms=5, max_request_size=2_000_000) as producer:
        pending = []
        for value in values:
            pending.append(await producer.send(topic, value, key=None if value else b"no value", partition=partition))
            if pace_s:
                await asyncio.sleep(pace_s)
        await asyncio.gather(*pending)


async def read_all(bootstrap: str, topic: str) -> list[Any]:
    """Return every committed record of a topic.

    A producer knows that it has committed before the markers of its transaction are written: what is undecided at the
    call is waited for, at most `_DECIDED_WITHIN_S`, since a test may have left a transaction open.
    """
    async with (
        AIOKafkaConsumer(topic, bootstrap_servers=bootstrap) as everything,
        AIOKafkaConsumer(
            topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest", isolation_level="read_committed"
        ) as consumer,
    ):
        partitions = sorted(consumer.assignment())
        assert partitions
        written = await everything.end_offsets(partitions)
        deadline_s = time.monotonic() + _DECIDED_WITHIN_S
        ends = await consumer.end_offsets(partitions)
        while any(ends[each] < written[each] for each in partitions) and time.monotonic() < deadline_s:
            await asyncio.sleep(0.05)
            ends = await consumer.end_offsets(partitions)
        await consumer.seek_to_beginning(*partitions)
        records: list[Any] = []
        while any([await consumer.position(each) < ends[each] for each in partitions]):
            for batch in (await consumer.getmany(timeout_ms=500)).values():
                records += batch
        return records
