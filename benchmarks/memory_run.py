"""`make memory-run`: the daemon's memory under simulated load at full speed with many sessions open at once.

    python -m benchmarks.memory_run --minutes 20 --open-sessions 10000 --bundle demo-output/bundle

Starts a real Kafka, the daemon and `loggpt-stream simulate` (at a rate that keeps the daemon behind: full speed),
samples the RSS of the daemon every five seconds, writes memory.csv, memory.png and memory.md. The slope is of a line
through the samples after the warm-up.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np

from loggpt_stream.model.bundle import load_bundle, save_bundle, save_calibrated
from loggpt_stream.model.manifest import MANIFEST
from testing.daemon_process import DaemonProcess, Topics, own_process
from testing.kafka_server import KafkaServer

mpl.use("Agg")
from matplotlib import pyplot as plt

SAMPLE_EVERY_S = 5.0


def main() -> None:
    """Run the load and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0, help="how long to sample after the sessions are open")
    parser.add_argument("--open-sessions", type=int, default=10_000, help="sessions open at once")
    parser.add_argument("--rate", type=float, default=8000.0, help="lines/s produced: more than the daemon can take")
    parser.add_argument("--bundle", type=Path, default=Path("demo-output/bundle"), help="calibrated bundle")
    parser.add_argument("--out", type=Path, default=Path("runs/memory"), help="output folder (default: runs/memory)")
    options = parser.parse_args()
    if not (options.bundle / MANIFEST).exists():
        parser.error(f"there is no bundle at {options.bundle}: `make demo` leaves one, or name another by --bundle")
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, KafkaServer(Path(scratch)) as kafka:
        samples = asyncio.run(run(kafka.bootstrap, options))
    report(samples, options)


async def run(bootstrap: str, options: argparse.Namespace) -> list[tuple[float, float, float, float]]:
    """Return samples of (seconds, RSS in MB, lines read, sessions open)."""
    topics = await Topics.create(bootstrap, partitions=4)
    load = [sys.executable, "-m", "loggpt_stream", "simulate", "--rate", str(options.rate), "--seed", "1"]
    load += ["--concurrency", str(options.open_sessions), "--duration-s", str(24 * 3600)]
    load += ["--no-background", "--output", f"kafka:{topics.input}", "--kafka.bootstrap", bootstrap]
    samples: list[tuple[float, float, float, float]] = []
    # Few may wait for the scorer, so that their number too is soon steady.
    flags = [
        "--max-pending-sessions",
        "500",
        *topics.flags(),
        "--bundle",
        str(soon_steady(options.bundle, options.out / "bundle")),
    ]
    with (
        DaemonProcess(options.out, flags, start=own_process) as daemon,
        (options.out / "simulate.log").open("wb") as log,
    ):
        await daemon.ready()
        simulator = subprocess.Popen(load, stdout=log, stderr=log)
        try:
            # The clock starts with the load: the simulator first reads its recordings and opens its sessions.
            await daemon.reached("loggpt_sessions_open", 0.9 * options.open_sessions, timeout_s=600)
            began_s = time.monotonic()
            while not samples or samples[-1][0] < options.minutes * 60:
                await asyncio.sleep(SAMPLE_EVERY_S)
                if simulator.poll() is not None:
                    raise RuntimeError(f"the simulator ended: see {log.name}")
                lag = await daemon.metric("loggpt_consumer_lag_records")
                lines = await daemon.metric("loggpt_records_total")
                open_sessions = await daemon.metric("loggpt_sessions_open")
                samples.append((time.monotonic() - began_s, rss_mb(daemon.process.pid), lines, open_sessions))
                print(
                    f"{samples[-1][0]:6.0f} s  RSS {samples[-1][1]:7.1f} MB  {lines:12,.0f} lines  "
                    f"{open_sessions:7,.0f} open  lag {lag:9,.0f}",
                    flush=True,
                )
        finally:
            simulator.kill()
            simulator.wait()
    return samples


def soon_steady(bundle: Path, path: Path) -> Path:
    """Write the same bundle with rules under which the number of open sessions is soon steady.

    With the default rules every request session stays open for 300 s of record time after its last line, so that with
    the requests of 10,000 instances the number of open sessions would go on rising for most of the run.
    """
    given = load_bundle(bundle)
    rules = replace(
        given.preprocessing.session_rules,
        key_order=("instance", "instance_in_text", "request_instance"),
        idle_gap_s=60.0,
        grace_s=10.0,
    )
    if given.calibration is None:
        raise ValueError("the memory run needs a calibrated bundle")
    changed = save_bundle(
        path,
        model=given.model(),
        tokenizer=given.tokenizer().tokenizer,
        preprocessing=replace(given.preprocessing, session_rules=rules),
        line_frequencies=given.line_frequencies(),
        training=given.training,
        used_sessions=given.used_sessions,
    )
    save_calibrated(changed, path, calibration=given.calibration, calibration_sessions=np.empty(0))
    return path


def report(samples: list[tuple[float, float, float, float]], options: argparse.Namespace) -> None:
    """Write memory.csv, memory.png and memory.md, and print the last."""
    with (options.out / "memory.csv").open("w") as stream:
        csv.writer(stream).writerows([("seconds", "rss_mb", "lines", "open_sessions"), *samples])
    seconds, rss, lines, open_sessions = np.array(samples).T
    warm = seconds > seconds[-1] / 4
    slope_mb_per_h = np.polyfit(seconds[warm], rss[warm], 1)[0] * 3600
    figure, axis = plt.subplots(figsize=(8, 4), layout="constrained")
    axis.plot(seconds / 60, rss, label="RSS")
    axis.set(xlabel="minutes", ylabel="RSS of the daemon (MB)", ylim=(0, None))
    other = axis.twinx()
    other.plot(seconds / 60, open_sessions, color="tab:orange", label="open sessions")
    other.set(ylabel="sessions open", ylim=(0, None))
    figure.legend(loc="outside lower center", ncol=2)
    axis.set_title(
        f"{lines[-1]:,.0f} lines at {lines[-1] / seconds[-1]:,.0f} lines/s; slope {slope_mb_per_h:+.1f} MB/h"
    )
    figure.savefig(options.out / "memory.png", dpi=120)
    text = "\n".join(
        [
            "| minutes | lines | lines/s | open sessions: median, max | RSS (MB) at 1/4, end, max | MB/h |",
            "| --- | --- | --- | --- | --- | --- |",
            (
                f"| {seconds[-1] / 60:.1f} | {lines[-1]:,.0f} | {lines[-1] / seconds[-1]:,.0f} "
                f"| {np.median(open_sessions):,.0f}, {open_sessions.max():,.0f} "
                f"| {rss[warm][0]:.0f}, {rss[-1]:.0f}, {rss.max():.0f} | {slope_mb_per_h:+.1f} |"
            ),
            "",
        ]
    )
    (options.out / "memory.md").write_text(text)
    print(text)


def rss_mb(pid: int) -> float:
    """Return the resident memory of a process in MB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 1e6


if __name__ == "__main__":
    main()
