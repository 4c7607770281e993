"""The demo, shortened: it reaches its summary, and Ctrl-C at any stage leaves nothing running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from loggpt_stream.demo.play import _row, read_play

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _started_processes_can_be_interrupted() -> Iterator[None]:
    # A shell that runs the suite in the background has it ignore SIGINT, and so would every process started here.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def start(out: Path) -> subprocess.Popen[bytes]:
    with (out / "demo.log").open("wb") as log:
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "loggpt_stream",
                "demo",
                "--out",
                str(out / "demo"),
                "--quick",
                "--max-minutes",
                "0.1",
            ],
            stdout=log,
            stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


def mine(out: Path) -> list[psutil.Process]:
    """Return the processes that the demo of this folder started, and its broker."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = " ".join(process.info["cmdline"] or ())
        if str(out) in words and process.pid != os.getpid():
            found.append(process)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["1 of 5", "epoch", "4 of 5"])
def test_ctrl_c_leaves_nothing_running(tmp_path: Path, stage: str) -> None:
    process = start(tmp_path)
    children: list[psutil.Process] = []
    deadline_s = time.monotonic() + 240
    while stage not in (tmp_path / "demo.log").read_text(errors="replace"):
        assert process.poll() is None, (tmp_path / "demo.log").read_text()
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
    time.sleep(1.0)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 130
    gone, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []
    assert len(gone) == len(children)
    assert mine(tmp_path) == []


@pytest.mark.slow
def test_the_quick_demo_reaches_its_summary(tmp_path: Path) -> None:
    process = start(tmp_path)
    try:
        assert process.wait(timeout=280) == 0, (tmp_path / "demo.log").read_text()
    finally:
        process.kill()
    said = (tmp_path / "demo.log").read_text()
    assert "137 instances, 20 failed" in said
    assert "any ERROR line" in said
    for name in ("bundle/loggpt.json", "alerts.jsonl", "calibration/calibration_report.md", "daemon.log"):
        assert (tmp_path / "demo" / name).exists()
    assert (tmp_path / "demo" / "alerts.jsonl").read_bytes().count(b"\n") > 0
    assert mine(tmp_path) == []


def test_it_plays_only_whole_sessions_of_the_test_part() -> None:
    play = read_play()
    assert len(play.truth) == 137
    assert [time_s for time_s, _ in play.lines] == sorted(time_s for time_s, _ in play.lines)


def test_log_text_cannot_control_the_terminal() -> None:
    alert = {
        "@timestamp": "2026-11-23T14:25:40.892Z",
        "loggpt": {
            "score": 2.0,
            "threshold": 1.0,
            "session": {"key": "k\x1b[2J", "close_reason": "idle"},
            "top_lines": [
                {
                    "text": "2026-11-23 14:25:40.892 7 INFO nova.x [-] \x1b]0;evil\x07\x9b31m "
                    "[red]bold[/red]\u202etxt\nnext"
                }
            ],
        },
    }
    row = _row(alert, 200)
    assert row.isprintable()
    assert r"\[red]" in row
