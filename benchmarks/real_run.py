"""`make real-run`: real logs through the whole path, with figures.

For each case: train on its train split, calibrate on val, stream the test split through a real Kafka topic of four
partitions into the running daemon, read the alert and score topics with a plain consumer, compare with the labels.

    python -m benchmarks.real_run                       every case whose data is there
    python -m benchmarks.real_run --case nova34         one case
    python -m benchmarks.real_run --out runs/real       where bundles, logs, reports and results.json go
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import lzma
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from calibrate.curves import detection_metrics
from loggpt_stream.history.labels import read_labels
from loggpt_stream.lines.decode import decode
from loggpt_stream.lines.record import Record
from testing.daemon_process import DaemonProcess, Topics, own_process, produce, read_all
from testing.kafka_server import KafkaServer

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
FAULTS = ROOT.parent / "shared" / "data" / "openstack-faults"
NOVA34 = Path(str(files("loggpt_stream") / "data" / "nova34"))
PARTITIONS = 4
# Idle sessions of a partition that has caught up close after idle_gap_s / this many seconds.
CLOCK_SPEED = 600.0


@dataclass(frozen=True)
class Case:
    """One data set read as one kind of session."""

    name: str
    labels: Path
    anomaly_column: str
    group_column: str | None
    train_flags: tuple[str, ...]
    keep_kind: str


# On a machine that does anything else beside, one thread trains faster than two (they wait for each other).
SMALL = ("--threads", "1")

CASES = (
    Case(
        "faults-run",
        FAULTS / "nova.labels.csv",
        "failed",
        "test",
        ("--sessions.key-order", '["explicit"]', *SMALL, "--max-minutes", "8"),
        "explicit",
    ),
    Case(
        "faults-instance",
        FAULTS / "nova.labels.csv",
        "failed",
        "test",
        ("--sessions.key-order", '["instance","instance_in_text","request_instance"]', *SMALL, "--max-minutes", "5"),
        "instance",
    ),
    Case(
        "nova34",
        NOVA34 / "nova34.labels.csv",
        "failed",
        None,
        (*SMALL, "--exclude", "failed=1", "--max-minutes", "3"),
        "instance",
    ),
)


def main() -> None:
    """Run the cases and write results.json and results.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=[case.name for case in CASES], help="only this case")
    parser.add_argument("--out", type=Path, default=Path("runs/real"), help="output folder (default: runs/real)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    results = {}
    with tempfile.TemporaryDirectory() as scratch, KafkaServer(Path(scratch)) as kafka:
        for case in CASES:
            if options.case and case.name not in options.case:
                continue
            if not case.labels.exists():
                print(f"{case.name}: skipped, {case.labels} is not there")
                continue
            results[case.name] = asyncio.run(run_case(case, options.out / case.name, kafka.bootstrap))
            # After each case: an hour's work is not lost to a fault in the next.
            (options.out / "results.json").write_bytes(orjson.dumps(results, option=orjson.OPT_INDENT_2))
    table = markdown(results)
    (options.out / "results.md").write_text(table)
    print(table)


async def run_case(case: Case, out: Path, bootstrap: str) -> dict[str, Any]:
    """Train, calibrate, stream and measure one case."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    splits = write_splits(case, out)
    bundle = out / "bundle"
    labels = ["--labels", str(case.labels)]
    began_s = time.monotonic()
    group = ["--group-column", case.group_column] if case.group_column else []
    command(
        "trainer.cli",
        "--out",
        str(bundle),
        *labels,
        "--select",
        "split=train",
        *group,
        *case.train_flags,
        str(splits["train"]),
    )
    trained_s = time.monotonic()
    command(
        "calibrate.cli",
        "--bundle",
        str(bundle),
        *labels,
        "--select",
        "split=val",
        "--anomaly-column",
        case.anomaly_column,
        str(splits["val"]),
    )
    calibrated_s = time.monotonic()
    streamed = await stream(case, splits["test"], bundle, bootstrap, out)
    measured = measure(case, streamed)
    return {"train_s": trained_s - began_s, "calibrate_s": calibrated_s - trained_s, **measured}


def write_splits(case: Case, out: Path) -> dict[str, Path]:
    """Write one file of records a split, in time order over all sessions, as a cloud would have written them."""
    if case.name == "nova34":
        return write_nova34(case, out)
    with case.labels.open() as stream:
        split_of = {row["session_id"]: row["split"] for row in csv.DictReader(stream)}
    found: dict[str, list[tuple[float, int, bytes]]] = {"train": [], "val": [], "test": []}
    with lzma.open(FAULTS / "nova.jsonl.xz") as records:
        for number, value in enumerate(records):
            session = orjson.loads(value)["session_id"]
            if split_of[session] in found:
                event = decode(Record(value, "", 0, number, 0.0))[0]
                found[split_of[session]].append((event.time_s, number, value))
    paths = {}
    for split, lines in found.items():
        paths[split] = out / f"{split}.jsonl"
        with paths[split].open("wb") as stream_out:
            stream_out.writelines(value for _, _, value in sorted(lines))
    return paths


def write_nova34(case: Case, out: Path) -> dict[str, Path]:
    """Cut the recording by time: a split's file has every line from its first session's start to its last one's end.

    Sessions near a cut show in two files; whose they are is told by their label.
    """
    with case.labels.open() as stream:
        rows = list(csv.DictReader(stream))
    paths = {}
    for split in ("train", "val", "test"):
        mine = [row for row in rows if row["split"] == split]
        begin_s, end_s = min(float(r["started_at"]) for r in mine) - 1, max(float(r["ended_at"]) for r in mine) + 60
        paths[split] = out / f"{split}.log"
        newest_s = 0.0
        with lzma.open(NOVA34 / "nova34.log.xz") as records, paths[split].open("wb") as stream_out:
            for number, value in enumerate(records):
                event = decode(Record(value.rstrip(b"\n"), "", 0, number, newest_s))[0] if value.strip() else None
                newest_s = event.time_s if event and event.logger else newest_s
                if begin_s <= newest_s <= end_s:
                    stream_out.write(value)
    return paths


def command(module: str, *flags: str) -> None:
    """Run one of our commands, its output shown."""
    print("$", module, *flags, flush=True)
    subprocess.run([sys.executable, "-m", module, *flags], check=True)


async def stream(case: Case, path: Path, bundle: Path, bootstrap: str, out: Path) -> dict[str, Any]:
    """Fill a topic of four partitions, then let the daemon work it off; return scores, alerts and times."""
    topics = await Topics.create(bootstrap, partitions=PARTITIONS)
    values = [line.rstrip(b"\n") for line in path.open("rb")]
    by_partition = partitioned(case, values)
    await asyncio.gather(*(produce(bootstrap, topics.input, mine, partition=n) for n, mine in by_partition.items()))
    flags = [*topics.flags(), "--bundle", str(bundle), "--clock-speed", str(CLOCK_SPEED), "--threads", "2"]
    with DaemonProcess(out, flags, start=own_process) as daemon:
        await daemon.ready()
        began_s = time.monotonic()
        await daemon.reached("loggpt_records_total", len(values), timeout_s=1800)
        read_s = time.monotonic() - began_s
        while await daemon.metric("loggpt_sessions_open") or await daemon.metric("loggpt_sessions_pending"):
            await asyncio.sleep(0.2)
        done_s = time.monotonic() - began_s
        rss_mb = rss(daemon.process.pid)
        assert await daemon.terminate() == 0
    scores = [orjson.loads(record.value) for record in await read_all(bootstrap, topics.scores)]
    alerts = [orjson.loads(record.value) for record in await read_all(bootstrap, topics.alerts)]
    return {
        "lines": len(values),
        "read_s": read_s,
        "done_s": done_s,
        "rss_mb": rss_mb,
        "scores": scores,
        "alerts": alerts,
    }


def partitioned(case: Case, values: list[bytes]) -> dict[int, list[bytes]]:
    """Return the records by partition: all lines of a run on one; nova34 is one stream on one partition."""
    found: dict[int, list[bytes]] = {n: [] for n in range(PARTITIONS)}
    for value in values:
        found[0 if case.name == "nova34" else hash_of(orjson.loads(value)["session_id"]) % PARTITIONS].append(value)
    return found


def hash_of(text: str) -> int:
    """Return a hash that is the same in every run."""
    return sum((i + 1) * byte for i, byte in enumerate(text.encode()))


def rss(pid: int) -> float:
    """Return the resident memory of a process in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def measure(case: Case, streamed: dict[str, Any]) -> dict[str, Any]:
    """Compare what the topics hold with the labels of the test split. One verdict a session key: its highest score."""
    rows = read_labels(str(case.labels)).rows
    best: dict[str, dict[str, Any]] = {}
    for record in streamed["scores"]:
        session = record["session"]
        row = rows.get(session["key"]) or rows.get(session["group"] or "")
        if session["kind"] != case.keep_kind or record["unjudged"] or row is None or row["split"] != "test":
            continue
        known = best.get(session["key"])
        if known is None or record["score"] > known["score"]:
            best[session["key"]] = {**record, "row": row}
    alerted = {alert["loggpt"]["session"]["key"] for alert in streamed["alerts"] if alert["loggpt"]["stage"] == "final"}
    scores_N = np.array([each["score"] for each in best.values()])
    truth_N = np.array([each["row"][case.anomaly_column] == "1" for each in best.values()])
    groups_N = np.array([each["row"].get(case.group_column or "", key) for key, each in best.items()])
    threshold = next(iter(best.values()))["threshold"]
    metrics = detection_metrics(scores_N, truth_N, threshold, groups_N)
    above = {key for key, each in best.items() if each["score"] > each["threshold"]}
    if above != alerted & set(best):
        raise AssertionError(f"alerts and scores disagree on {sorted(above ^ (alerted & set(best)))[:5]}")
    _, counts = np.unique(scores_N, return_counts=True)
    return {
        "lines": streamed["lines"],
        "lines_per_s": streamed["lines"] / streamed["done_s"],
        "read_s": streamed["read_s"],
        "done_s": streamed["done_s"],
        "rss_mb": streamed["rss_mb"],
        "sessions": len(best),
        "records_scored": len(streamed["scores"]),
        "alerts": len(streamed["alerts"]),
        "most_sessions_with_one_score": int(counts.max()),
        "metrics": asdict(metrics),
    }


def markdown(results: dict[str, Any]) -> str:
    """Return the results as a table."""
    rows = list(_rows(results))
    head = "| case | sessions (failed) | AUC-ROC | AUC-PR | precision | recall | F1 | TP FP FN TN | lines/s | train s |"
    return "\n".join([head, "|" + " --- |" * head.count(" | ") + " --- |", *rows, ""])


def _rows(results: dict[str, Any]) -> Iterator[str]:
    for name, each in results.items():
        m = each["metrics"]
        cells = (
            name,
            f"{each['sessions']} ({m['tp'] + m['fn']})",
            *(f"{m[key]:.3f}" for key in ("auc_roc", "auc_pr", "precision", "recall", "f1")),
            f"{m['tp']} {m['fp']} {m['fn']} {m['tn']}",
            f"{each['lines_per_s']:,.0f}",
            f"{each['train_s']:.0f}",
        )
        yield "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
