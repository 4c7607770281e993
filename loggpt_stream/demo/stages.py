"""What the demo runs: training, calibration and the daemon, each as its users run it, in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, Final

import orjson

from loggpt_stream.demo.recording import LABELS, RECORDING
from loggpt_stream.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from loggpt_stream.demo.settings import DemoSettings

_DAEMON_START_S: Final = 90.0


def train(settings: DemoSettings, bundle: Path) -> None:
    """Train on split=train of the recording."""
    minutes = min(settings.max_minutes, 0.5) if settings.quick else settings.max_minutes
    flags = ["--select", "split=train", "--exclude", "failed=1", "--seed", str(settings.seed), "--no-resume"]
    command = ["trainer.cli", "--out", str(bundle), "--labels", str(LABELS), *flags]
    _run([*command, "--max-minutes", str(minutes), str(RECORDING)])


def calibrate(bundle: Path, report: Path) -> None:
    """Calibrate on split=val of the recording."""
    flags = ["--labels", str(LABELS), "--select", "split=val", "--report", str(report)]
    _run(["calibrate.cli", "--bundle", str(bundle), *flags, str(RECORDING)])


def _run(arguments: list[str]) -> None:
    """Run one of our commands, its output shown. Raises `UserError` where it fails."""
    process = _start([sys.executable, "-m", *arguments])
    try:
        code = process.wait()
    finally:
        _end(process)
    if code != 0:
        raise UserError(f"{arguments[0]} ended with exit code {code}: its message stands above.")


class RunningDaemon:
    """The daemon as production runs it, in a process of its own."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        """Wait until it is ready. Raises `UserError` with the end of its log where it does not get there."""
        self._process = process
        self._log = log
        deadline_s = time.monotonic() + _DAEMON_START_S
        while not self._event("partitions_assigned"):
            self.check()
            if time.monotonic() > deadline_s:
                raise UserError(f"the daemon was not ready after {_DAEMON_START_S:.0f} s:\n{self._tail()}")
            time.sleep(0.1)
        self._port = self._event("daemon_starting")["http_port"]

    def metric(self, name: str) -> float:
        """Return a metric, summed over its labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))

    def check(self) -> None:
        """Raise `UserError` with the end of its log where the daemon has ended by itself."""
        if self._process.poll() is not None:
            raise UserError(f"the daemon ended with exit code {self._process.returncode}:\n{self._tail()}")

    def stop(self) -> None:
        """Ask it to end, and wait. Raises `UserError` where it does not end well."""
        self._process.send_signal(signal.SIGTERM)
        if self._process.wait(timeout=60) != 0:
            raise UserError(f"the daemon ended with exit code {self._process.returncode}:\n{self._tail()}")

    def _event(self, name: str) -> dict[str, Any]:
        for line in self._log.read_bytes().splitlines():
            if line.startswith(b"{") and (found := orjson.loads(line)).get("event") == name:
                return dict(found)
        return {}

    def _tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])


@contextmanager
def running_daemon(bundle: Path, bootstrap: str, speed: float, log: Path) -> Iterator[RunningDaemon]:
    """Run `loggpt-stream run` until the block ends."""
    flags = ["--bundle", str(bundle), "--kafka.bootstrap", bootstrap, "--clock-speed", str(speed)]
    # Ten seconds of the recording, but no more often than the scorer likes.
    flags += ["--early-every-s", str(max(0.5, 10.0 / speed))]
    flags += ["--http-host", "127.0.0.1", "--http-port", "0", "--log-format", "json"]
    with log.open("wb") as stream:
        process = _start([sys.executable, "-m", "loggpt_stream", "run", *flags], stderr=stream)
    try:
        yield RunningDaemon(process, log)
    finally:
        _end(process)


def _start(command: list[str], stderr: IO[bytes] | None = None) -> subprocess.Popen[bytes]:
    # In a session of its own: Ctrl-C comes to us alone, and we end what we started.
    return subprocess.Popen(command, stderr=stderr, start_new_session=True)  # noqa: S603 - our own commands


def _end(process: subprocess.Popen[bytes]) -> None:
    """Leave nothing of a process and its children running."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()
