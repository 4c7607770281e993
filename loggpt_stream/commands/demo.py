"""`loggpt-stream demo`: the whole path on the recorded logs that ship with the package, in minutes."""

from __future__ import annotations

import asyncio
import csv
import lzma
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from pydantic import Field
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from loggpt_stream.commands.embedded_broker import embedded_broker
from loggpt_stream.errors import UserError
from loggpt_stream.history.corpus import read_corpus
from loggpt_stream.lines.decode import decode
from loggpt_stream.lines.record import Record
from loggpt_stream.logs import shown
from loggpt_stream.model.bundle import load_bundle
from loggpt_stream.settings import Settings, load

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_DESCRIPTION: Final = """\
Train a small model on the first part of a recording of a real Nova 34, calibrate it on the second, and stream the third
through an embedded broker into the daemon, at a multiple of real speed. Alerts show as they are published; a summary
compares them with what really happened, and with what counting ERROR lines would have found.

  loggpt-stream demo                     about three minutes on two cores; results in demo-output/
  loggpt-stream demo --quick             half a minute of training: worse figures, sooner

Ctrl-C at any time ends it and leaves nothing running."""

_DATA: Final = Path(str(files("loggpt_stream"))) / "data" / "nova34"
_RECORDING: Final = _DATA / "nova34.log.xz"
_LABELS: Final = _DATA / "nova34.labels.csv"
_DAEMON_START_S: Final = 90.0
_DRAIN_S: Final = 120.0


class DemoSettings(Settings):
    """Settings of `loggpt-stream demo`."""

    out: Path = Field(Path("demo-output"), description="folder for bundle, plots, alerts and logs")
    speed: float = Field(12.0, gt=0, description="play the recording so many times as fast as it happened")
    max_minutes: float = Field(1.1, gt=0, description="train at most so many minutes")
    quick: bool = Field(default=False, description="a quick look: half a minute of training, a faster replay")
    seed: int = Field(42, description="seed of the training")


@dataclass(frozen=True, slots=True)
class Play:
    """What is streamed: raw lines with their times (epoch seconds), and the label row of each test instance."""

    lines: list[tuple[float, bytes]]
    truth: dict[str, dict[str, str]]


def main(argv: Sequence[str]) -> int:
    """Run the demo; return the exit code."""
    settings = load(DemoSettings, argv, prog="loggpt-stream demo", description=_DESCRIPTION)
    # Rows of alerts are wider than the 80 columns that rich takes a file or pipe to have.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 180)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    out, began_s = settings.out, time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    bundle = out / "bundle"
    with ExitStack() as lifetimes:
        _stage(console, 1, "train on the first part of the recording (sessions known as failed are left out)")
        train(settings, bundle)
        _stage(console, 2, "calibrate on the second part, with its labels")
        calibrate(bundle, out / "calibration")
        _stage(console, 3, "start the embedded broker and the daemon")
        bootstrap = lifetimes.enter_context(embedded_broker())
        speed = settings.speed * (3 if settings.quick else 1)
        daemon = lifetimes.enter_context(running_daemon(bundle, bootstrap, speed, out / "daemon.log"))
        play = read_play()
        _stage(console, 4, f"play {len(play.lines):,} lines of the third part at {speed:g} times real speed")
        alerts = asyncio.run(stream(play, bootstrap, speed, daemon, out / "alerts.jsonl", console))
        daemon.stop()
        _stage(console, 5, "compare with what really happened")
        summarise(play, alerts, bundle, out, console)
    console.print(f"\nTook {time.monotonic() - began_s:.0f} s. Left in {out}/:")
    for name, what in _LEFT.items():
        if (out / name).exists():
            console.print(f"  {out / name}: {what}")
    return 0


_LEFT: Final = {
    "bundle": "the calibrated model; `loggpt-stream replay --bundle` takes it",
    "bundle-report": "learning_curve.png, training_report.json",
    "calibration": "calibration_report.md, loss_distribution.png, roc_curve.png, precision_recall_curve.png, …",
    "alerts.jsonl": "the alerts, one JSON object a line",
    "played.log": "the lines that were streamed",
    "daemon.log": "the daemon's own log",
}


def train(settings: DemoSettings, bundle: Path) -> None:
    """Train on split=train of the recording."""
    minutes = min(settings.max_minutes, 0.5) if settings.quick else settings.max_minutes
    flags = ["--select", "split=train", "--exclude", "failed=1", "--seed", str(settings.seed), "--no-resume"]
    command = ["trainer.cli", "--out", str(bundle), "--labels", str(_LABELS), *flags]
    _run([*command, "--max-minutes", str(minutes), str(_RECORDING)])


def calibrate(bundle: Path, report: Path) -> None:
    """Calibrate on split=val of the recording."""
    flags = ["--labels", str(_LABELS), "--select", "split=val", "--report", str(report)]
    _run(["calibrate.cli", "--bundle", str(bundle), *flags, str(_RECORDING)])


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


def read_play() -> Play:
    """Return the third part of the recording: from the first test instance's start on, without earlier instances.

    Instances that had begun before would come without their beginnings, as in no real stream.
    """
    with _LABELS.open() as stream:
        rows = {row["instance_uuid"]: row for row in csv.DictReader(stream)}
    truth = {uuid: row for uuid, row in rows.items() if row["split"] == "test"}
    begin_s = min(float(row["started_at"]) for row in truth.values()) - 1
    lines: list[tuple[float, bytes]] = []
    time_s, mine = 0.0, True
    with lzma.open(_RECORDING) as recording:
        for number, raw in enumerate(recording):
            value = raw.rstrip(b"\n")
            event = decode(Record(value, "", 0, number, time_s))[0]
            if not event.fragment:
                time_s = event.time_s
                named = event.instance_id or event.instance_in_text
                mine = named not in rows or named in truth
            if mine and time_s >= begin_s:
                lines.append((time_s, value))
    return Play(lines, truth)


async def stream(  # noqa: PLR0917 - what the stage before made
    play: Play, bootstrap: str, speed: float, daemon: RunningDaemon, alerts_file: Path, console: Console
) -> list[dict[str, Any]]:
    """Play the lines, show and keep each alert, and return them once every session is closed and judged."""
    (alerts_file.parent / "played.log").write_bytes(b"".join(line + b"\n" for _, line in play.lines))
    alerts: list[dict[str, Any]] = []
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress, alerts_file.open("wb") as out:
        console.print(
            f"  {'instance':36}  {'last line':12}  score > limit  closed by  most surprising line", style="bold"
        )
        # The embedded broker's transaction markers have no valid checksum.
        async with AIOKafkaConsumer(
            "loggpt-alerts",
            bootstrap_servers=bootstrap,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            check_crcs=False,
        ) as reader:
            showing = asyncio.create_task(_show(reader, alerts, out, console))
            task = progress.add_task("playing", total=len(play.lines))
            await _play(play, bootstrap, speed, lambda done: progress.update(task, completed=done))
            progress.update(task, description="sessions still open are closing")
            deadline_s = time.monotonic() + _DRAIN_S
            while await asyncio.to_thread(_busy, daemon):
                daemon.check()
                if time.monotonic() > deadline_s:
                    raise UserError(f"sessions were still open {_DRAIN_S:.0f} s after the last line; see daemon.log")
                await asyncio.sleep(0.3)
            await asyncio.sleep(1.0)  # the last alerts are on their way to the reader
            showing.cancel()
    return alerts


async def _play(play: Play, bootstrap: str, speed: float, done: Any) -> None:  # noqa: ANN401 - a callback of one number
    """Send each line when its time comes, `speed` times as fast as it happened."""
    first_s, began_s = play.lines[0][0], time.monotonic()
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, linger_ms=5) as producer:
        sent = None
        for number, (time_s, line) in enumerate(play.lines):
            ahead_s = (time_s - first_s) / speed - (time.monotonic() - began_s)
            if ahead_s > 0.01:  # noqa: PLR2004 - a hundredth of a second is no delay
                done(number)
                await asyncio.sleep(ahead_s)
            sent = await producer.send("openstack-logs", line, partition=0)
        if sent is not None:
            await sent
        done(len(play.lines))


def _busy(daemon: RunningDaemon) -> bool:
    names = ("loggpt_consumer_lag_records", "loggpt_sessions_open", "loggpt_sessions_pending")
    return any(daemon.metric(name) for name in names)


async def _show(reader: Any, alerts: list[dict[str, Any]], out: IO[bytes], console: Console) -> None:  # noqa: ANN401 - aiokafka is untyped
    async for record in reader:
        alert = orjson.loads(record.value)
        alerts.append(alert)
        out.write(record.value + b"\n")
        out.flush()
        console.print(_row(alert, console.width), soft_wrap=True)


def _row(alert: Mapping[str, Any], width: int) -> str:
    """Return an alert as one readable row. Log text is hostile: no control character reaches the terminal."""
    ours = alert["loggpt"]
    head = (
        f"  {ours['session']['key']:36}  {alert['@timestamp'][11:23]}  {ours['score']:5.1f} > {ours['threshold']:5.1f}"
        f"  {ours['session']['close_reason'] or 'early':9}  "
    )
    text = ours["top_lines"][0]["text"].partition("\n")[0]
    level_on = re.sub(r"^\S+ \S+ \d+ ", "", text)
    message = re.sub(r"\[(?:None|req-|-)[^\]]*\] |\[instance: [^\]]*\] ?", "", level_on)
    return escape(shown(head + message)[: max(width, 160)])


def summarise(play: Play, alerts: list[dict[str, Any]], bundle: Path, out: Path, console: Console) -> None:
    """Print what was found and missed, beside what any ERROR line would have found, on the same sessions."""
    preprocessing = load_bundle(bundle).preprocessing
    corpus = read_corpus([str(out / "played.log")], preprocessing.session_rules, preprocessing.mask_rules)
    with_error = {
        session.key
        for session in corpus.sessions
        if any(line.head.startswith(("ERROR ", "CRITICAL ")) for line in session.lines)
    }
    failed = {uuid for uuid, row in play.truth.items() if row["failed"] == "1"}
    early = {alert["loggpt"]["session"]["key"] for alert in alerts if alert["loggpt"]["stage"] == "early"}
    alerts = [alert for alert in alerts if alert["loggpt"]["stage"] == "final"]
    alerted = {alert["loggpt"]["session"]["key"] for alert in alerts} & set(play.truth)
    console.print(f"  {len(play.truth)} instances, {len(failed)} failed in the client's eyes")
    console.print(f"  {'':24}  found  missed  false alarms  precision  recall  F1", style="bold")
    for name, flagged in (("loggpt-stream", alerted), ("any ERROR line", with_error & set(play.truth))):
        console.print(_score_row(name, flagged, failed))
    console.print(f"  {len(early & failed)} of the failures were announced while their session was still open.")
    silent = (alerted & failed) - with_error
    console.print(f"  {len(silent)} of the failures it found have no ERROR line at all.")
    for uuid in sorted(silent):
        row = play.truth[uuid]
        console.print(f"    {uuid}  {row['fault']}: {escape(shown(row['client_error']))}")
    others = len({alert["loggpt"]["session"]["key"] for alert in alerts} - set(play.truth))
    if others:
        console.print(f"  {others} alerts concern sessions without a label.")


def _score_row(name: str, flagged: set[str], failed: set[str]) -> str:
    found, false = len(flagged & failed), len(flagged - failed)
    precision = found / max(found + false, 1)
    recall = found / max(len(failed), 1)
    f1 = 2 * precision * recall / max(precision + recall, 1e-9)
    return f"  {name:24}  {found:5}  {len(failed) - found:6}  {false:12}  {precision:9.2f}  {recall:6.2f}  {f1:.2f}"


def _stage(console: Console, number: int, what: str) -> None:
    console.print(f"\n[bold]{number} of 5: {escape(what)}[/bold]")
    sys.stdout.flush()
