"""The recording, played through Kafka: lines in, alerts out."""

from __future__ import annotations

import asyncio
import csv
import lzma
import re
import time
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Final

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from loggpt_stream.demo.recording import LABELS, RECORDING
from loggpt_stream.errors import UserError
from loggpt_stream.lines.decode import decode
from loggpt_stream.lines.record import Record
from loggpt_stream.terminal import shown

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from rich.console import Console

    from loggpt_stream.demo.stages import RunningDaemon

_DRAIN_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Play:
    """What is streamed: raw lines with their times (epoch seconds), and the label row of each test instance."""

    lines: list[tuple[float, bytes]]
    truth: dict[str, dict[str, str]]


def read_play() -> Play:
    """Return the third part of the recording: from the first test instance's start on, without earlier instances.

    Instances that had begun before would come without their beginnings, as in no real stream.
    """
    with LABELS.open() as stream:
        rows = {row["instance_uuid"]: row for row in csv.DictReader(stream)}
    truth = {uuid: row for uuid, row in rows.items() if row["split"] == "test"}
    begin_s = min(float(row["started_at"]) for row in truth.values()) - 1
    lines: list[tuple[float, bytes]] = []
    time_s, mine = 0.0, True
    with lzma.open(RECORDING) as recording:
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
