"""`make delivery-cost`: what exactly-once costs: throughput beside at-least-once, bytes of state, time of a restart.

    python -m benchmarks.delivery_cost --records 200000 --rounds 3 --open-sessions 100000

Starts a real Kafka of three brokers. Throughput: the same simulated input is read to its end in turn by this daemon and
by the last one that committed offsets at least once (a revision of this repository, in a worktree of its own), so that
what the machine does meanwhile meets both. State: what the daemon wrote to the state topic for each byte that it read,
and what the topic's files hold. Restart: with so many sessions open, from kill -9 to the first record read. Both with a
tiny model: a larger one would hide what delivery costs. Results go to docs/reports/delivery-cost.json.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
from aiokafka import AIOKafkaProducer

from loggpt_stream.simulator.library import load_library
from loggpt_stream.simulator.load import Load, Plan
from testing.daemon_process import DaemonProcess, Process, Topics, own_process
from testing.kafka_server import KafkaServer, unique_name
from testing.tiny_bundle import tiny_bundle

if TYPE_CHECKING:
    from collections.abc import Iterator

REPO = Path(__file__).parent.parent
# The last revision whose daemon committed offsets at least once.
AT_LEAST_ONCE = "cef161f"
PARTITIONS = 4
START_MS = 1_795_442_880_000
_READ_WITHIN_S = 1200.0
_WARM_UP = 0.1

Line = tuple[int, bytes, bytes]


@dataclass(frozen=True, slots=True)
class Reading:
    """One daemon's reading of the input: seconds from a tenth of it to its end, records a second, and its counters."""

    records_per_s: float
    state_bytes: float
    input_bytes: float


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=200_000, help="lines of input for the throughput")
    parser.add_argument("--rounds", type=int, default=3, help="readings by each of the two daemons, in turn")
    parser.add_argument("--open-sessions", type=int, default=100_000, help="sessions open at the restart")
    parser.add_argument("--lines-each", type=int, default=5, help="lines of each of these")
    parser.add_argument("--out", type=Path, default=REPO / "docs" / "reports" / "delivery-cost.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        bundle = tiny_bundle(folder / "bundle", alert_share=0.02).path
        old = folder / "at-least-once"
        subprocess.run(["git", "-C", str(REPO), "worktree", "add", "--detach", str(old), AT_LEAST_ONCE], check=True)
        try:
            with KafkaServer(folder / "kafka", brokers=3) as kafka:
                results = asyncio.run(measure(kafka, folder, bundle, old, options))
        finally:
            subprocess.run(["git", "-C", str(REPO), "worktree", "remove", "--force", str(old)], check=True)
    options.out.write_bytes(orjson.dumps(results, option=orjson.OPT_INDENT_2) + b"\n")
    print(options.out.read_text())


async def measure(
    kafka: KafkaServer, folder: Path, bundle: Path, old: Path, options: argparse.Namespace
) -> dict[str, object]:
    """Return all results."""
    topics = await Topics.create(kafka.bootstrap, partitions=PARTITIONS)
    await write(kafka.bootstrap, topics.input, simulated(options.records))
    print(f"{options.records} records written", flush=True)
    new: list[Reading] = []
    before: list[Reading] = []
    for _ in range(options.rounds):
        before.append(await reading(kafka, folder, bundle, topics, options.records, old=old))
        print(f"at least once: {before[-1]}", flush=True)
        new.append(await reading(kafka, folder, bundle, topics, options.records))
        print(f"exactly once:  {new[-1]}", flush=True)
    ratios = [now.records_per_s / then.records_per_s for now, then in zip(new, before, strict=True)]
    return {
        "records": options.records,
        "partitions": PARTITIONS,
        "at_least_once_records_per_s": [round(each.records_per_s) for each in before],
        "exactly_once_records_per_s": [round(each.records_per_s) for each in new],
        "throughput_ratio_each_round": [round(ratio, 3) for ratio in ratios],
        "throughput_ratio_median": round(statistics.median(ratios), 3),
        "state_bytes_per_input_byte": round(statistics.median(each.state_bytes / each.input_bytes for each in new), 4),
        "restart": await restart(kafka, folder, bundle, options),
    }


def simulated(count: int) -> Iterator[Line]:
    """Yield time (ms), key and text of simulated lines, the instances of a busy cloud."""
    plan = Plan(START_MS, seed=1, concurrency=500, lines=2 * count)
    for number, each in enumerate(Load(load_library(), "plain", plan)):
        if number == count:
            return
        yield each.time_ms, each.key.encode(), each.text.encode()


def many_open(sessions: int, lines_each: int) -> Iterator[Line]:
    """Yield the lines of so many instances, in turn, within less time than any of them would be idle."""
    for turn in range(lines_each):
        for number in range(sessions):
            time_ms = START_MS + 4_000 * turn + number * 4_000 // sessions
            second, milli = divmod(time_ms - START_MS, 1000)
            instance = f"{number:08x}-1111-4000-8000-{number * 7919 % 16**12:012x}"
            text = f"2026-11-23 14:08:{second:02d}.{milli:03d} 7 INFO nova.compute.manager [-] [instance: {instance}] "
            yield time_ms, instance.encode(), (text + f"Step {turn} of building took 1.{turn} seconds").encode()


async def write(bootstrap: str, topic: str, lines: Iterator[Line]) -> None:
    """Write lines, dated as they say."""
    async with AIOKafkaProducer(
        bootstrap_servers=bootstrap, linger_ms=20, compression_type="zstd", max_batch_size=500_000
    ) as producer:
        sent = None
        for time_ms, key, text in lines:
            sent = await producer.send(topic, text, key=key, timestamp_ms=time_ms)
        if sent is not None:
            await sent


async def reading(
    kafka: KafkaServer, folder: Path, bundle: Path, topics: Topics, records: int, *, old: Path | None = None
) -> Reading:
    """Let a daemon read the input with a group, and topics to write to, of its own."""
    mine = await Topics.create(kafka.bootstrap, partitions=PARTITIONS)
    flags = ["--kafka.bootstrap", kafka.bootstrap, "--input-topic", topics.input, "--bundle", str(bundle)]
    flags += ["--alert-topic", mine.alerts, "--dead-letter-topic", mine.dead_letters, "--group", unique_name("group")]
    flags += ["--early-every-s", "0", "--clock-speed", "1e-6", "--commit-interval-s", "2"]
    if old is None:
        flags += ["--state-topic", mine.state]
    with DaemonProcess(folder, flags, start=lambda given, log: _start(given, log, old or REPO)) as daemon:
        await daemon.reached("loggpt_records_total", _WARM_UP * records, timeout_s=_READ_WITHIN_S)
        began_s, began = time.monotonic(), await daemon.metric("loggpt_records_total")
        await daemon.reached("loggpt_records_total", records, timeout_s=_READ_WITHIN_S)
        took_s = time.monotonic() - began_s
        await asyncio.sleep(3.0)
        state = (
            [0.0, 1.0] if old else [await daemon.metric(f"loggpt_{each}_bytes_total") for each in ("state", "input")]
        )
        await daemon.terminate()
    return Reading((records - began) / took_s, state[0], state[1])


async def restart(kafka: KafkaServer, folder: Path, bundle: Path, options: argparse.Namespace) -> dict[str, object]:
    """Kill a daemon with many sessions open, and time the next one until it reads."""
    topics = await Topics.create(kafka.bootstrap, partitions=PARTITIONS)
    records = options.open_sessions * options.lines_each
    await write(kafka.bootstrap, topics.input, many_open(options.open_sessions, options.lines_each))
    flags = [*topics.flags(), "--bundle", str(bundle), "--early-every-s", "0", "--clock-speed", "1e-6"]
    # Static membership, as the manual advises: else the group first waits until it misses who was killed.
    flags += ["--instance-id", "one"]
    with DaemonProcess(folder, flags, start=own_process) as daemon:
        await daemon.reached("loggpt_records_total", records, timeout_s=_READ_WITHIN_S)
        await asyncio.sleep(5.0)
        open_sessions = await daemon.metric("loggpt_sessions_open")
        daemon.process.send_signal(signal.SIGKILL)
        daemon.process.wait()
    began_s = time.monotonic()
    with DaemonProcess(folder, flags, start=own_process) as daemon:
        await daemon.saw("daemon_starting")
        started_s = time.monotonic()
        await asyncio.sleep(0.1)
        while sum(each["event"] == "partition_taken_over" for each in daemon.events()) < PARTITIONS:
            await asyncio.sleep(0.05)
        ready_s = time.monotonic()
        taken_over = [each for each in daemon.events() if each["event"] == "partition_taken_over"]
        restored = sum(each["open_sessions"] for each in taken_over)
        await write(kafka.bootstrap, topics.input, many_open(1, 1))
        await daemon.reached("loggpt_records_total", 1)
        rss_mb = (
            int(Path(f"/proc/{daemon.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
        )
    return {
        "open_sessions": open_sessions,
        "lines_open": records,
        "restored_sessions": restored,
        "loading_torch_and_model_s": round(started_s - began_s, 2),
        "joining_and_restoring_s": round(ready_s - started_s, 2),
        "in_all_s": round(ready_s - began_s, 2),
        "rss_mb": round(rss_mb),
    }


def _start(arguments: list[str], log_path: Path, folder: Path) -> Process:
    with log_path.open("wb") as log:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "loggpt_stream", *arguments],
            stderr=log,
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


if __name__ == "__main__":
    main()
