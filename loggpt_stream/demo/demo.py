"""The demo: its five stages, one after another."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.markup import escape

from loggpt_stream.demo.embedded_broker import embedded_broker
from loggpt_stream.demo.play import read_play, stream
from loggpt_stream.demo.stages import calibrate, running_daemon, train
from loggpt_stream.demo.summary import summarise

if TYPE_CHECKING:
    from loggpt_stream.demo.settings import DemoSettings

_LEFT: Final = {
    "bundle": "the calibrated model; `loggpt-stream replay --bundle` takes it",
    "bundle-report": "learning_curve.png, training_report.json",
    "calibration": "calibration_report.md, loss_distribution.png, roc_curve.png, precision_recall_curve.png, …",
    "alerts.jsonl": "the alerts, one JSON object a line",
    "played.log": "the lines that were streamed",
    "daemon.log": "the daemon's own log",
}


def demo(settings: DemoSettings) -> None:
    """Run the demo. Raises `UserError` where a stage fails."""
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


def _stage(console: Console, number: int, what: str) -> None:
    console.print(f"\n[bold]{number} of 5: {escape(what)}[/bold]")
    sys.stdout.flush()
