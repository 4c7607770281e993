"""Results of fault runs, kept as JSON, and the table that a reader gets of them.

python -m faults.report runs/faults/*.json --out docs/reports/fault-suite.md
"""

from __future__ import annotations

import argparse
import json
import platform
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl
import numpy as np

from loggpt_stream import __version__
from testing.kafka_server import KAFKA_VERSION

mpl.use("Agg")
from matplotlib import pyplot as plt

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PACKAGES: Final = ("aiokafka", "torch")


@dataclass(frozen=True, slots=True)
class Result:
    """One scenario, once. started: RFC 3339 in UTC. faults: how many of which sort. samples: of the soak, by column.

    early_alerts: how many there were beside the final ones; older runs had them switched off.
    """

    scenario: str
    description: str
    seed: int
    command: str
    started: str
    seconds: float
    versions: Mapping[str, str]
    faults: Mapping[str, int]
    sessions: int
    alerts: int
    lines: int
    findings: Mapping[str, Sequence[str]]
    samples: Sequence[Mapping[str, float]] = ()
    early_alerts: int = 0

    @property
    def ok(self) -> bool:
        """Tell whether nothing was found."""
        return not any(self.findings.values())

    def write(self, folder: Path) -> Path:
        """Write it to a file of its own in `folder` and return that."""
        path = folder / f"{self.scenario}-{self.seed}.json"
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")
        return path

    @classmethod
    def read(cls, path: Path) -> Result:
        """Return what `write` wrote."""
        values: dict[str, Any] = json.loads(path.read_text())
        return cls(**values)


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    found = {"loggpt-stream": __version__, "Apache Kafka": KAFKA_VERSION, "Python": platform.python_version()}
    return found | {name: version(name) for name in _PACKAGES}


def now() -> str:
    """Return the time in RFC 3339, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def markdown(results: Sequence[Result]) -> str:
    """Return the report of these results, by scenario and time."""
    ordered = sorted(results, key=lambda each: (each.scenario, each.started))
    told = [
        "# Fault suite",
        "",
        "Real Apache Kafka (three brokers), real daemons, simulated OpenStack sessions whose outcome is known from an",
        "offline pass over the same input. Whatever a `read_committed` reader of the score, alert and dead-letter",
        "topics finds missing, twice, unexpected or different is a finding. Written by `python -m faults.report`.",
        "",
        "| scenario | date | faults | lines | sessions | alerts | minutes | findings |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for each in ordered:
        faults = "; ".join(f"{name}: {count}" for name, count in each.faults.items() if count)
        found = "; ".join(f"{len(items)} {sort}" for sort, items in each.findings.items() if items) or "none"
        told.append(
            f"| {each.scenario} | {each.started[:10]} | {faults} | {each.lines:,} | {each.sessions:,} "
            f"| {_alerts(each)} | {each.seconds / 60:.1f} | {found} |"
        )
    told += ["", "## What each does, and how to repeat it", ""]
    for each in ordered:
        told += [f"**{each.scenario}**: {each.description}", "", f"    {each.command}", ""]
        told += _findings(each)
        if each.samples:
            told += [f"![Memory and lag of {each.scenario}]({_curves_name(each)})", "", *_steadiness(each.samples)]
            told += _table(each.samples)
    every = sorted({f"{name} {number}" for each in ordered for name, number in each.versions.items()})
    told += ["## Versions", "", ", ".join(every) + ".", ""]
    return "\n".join(told)


def _alerts(result: Result) -> str:
    return f"{result.alerts:,}" + (f" and {result.early_alerts:,} early" if result.early_alerts else "")


def _findings(result: Result) -> list[str]:
    told = []
    for sort, items in result.findings.items():
        if items:
            told += [f"- {len(items)} {sort}, the first: `{items[0]}`"]
    return [*told, ""] if told else []


def curves(result: Result, folder: Path) -> Path:
    """Draw the samples of a result into a PNG file in `folder`, under the name that the report has for it."""
    minutes = [each["at_s"] / 60 for each in result.samples]
    figure, axis = plt.subplots(figsize=(8, 4), layout="constrained")
    axis.plot(minutes, [each["rss_mb"] for each in result.samples], label="RSS")
    axis.set(xlabel="minutes", ylabel="RSS of the largest daemon (MB)", ylim=(0, None))
    other = axis.twinx()
    other.plot(minutes, [each["lag_records"] for each in result.samples], color="tab:orange", label="lag")
    other.set(ylabel="records behind", ylim=(0, None))
    figure.legend(loc="outside lower center", ncol=2)
    path = folder / _curves_name(result)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def _steadiness(samples: Sequence[Mapping[str, float]]) -> list[str]:
    """Return what the samples say of lag, and their second half of memory: what was filled once is full by then."""
    half = samples[len(samples) // 2 :]
    hours = [each["at_s"] / 3600 for each in half]
    slope, _ = np.polyfit(hours, [each["rss_mb"] for each in half], 1)
    most = max(each["lag_records"] for each in samples)
    # There is a fault a minute: what is least within one is what it came down to before the next.
    least: dict[int, float] = {}
    for each in samples:
        minute = int(each["at_s"] // 60)
        least[minute] = min(each["lag_records"], least.get(minute, each["lag_records"]))
    nothing = sum(lag == 0 for lag in least.values())
    told = (
        f"In the second half the memory of the largest daemon changed by {slope:+.0f} MB an hour (a line through the "
        f"samples). At most {most:,.0f} records were behind, after a fault; in {nothing} of {len(least)} minutes "
        f"the lag came down to nothing, in each to {max(least.values()):,.0f} records or less."
    )
    return [told, ""]


def _curves_name(result: Result) -> str:
    return f"fault-suite-{result.scenario}-{result.seed}.png"


def _table(samples: Sequence[Mapping[str, float]]) -> list[str]:
    """Return samples as a table of about twelve rows."""
    names = list(samples[0])
    rows = samples[:: max(1, len(samples) // 12)]
    told = ["| " + " | ".join(names) + " |", "| " + " | ".join("---" for _ in names) + " |"]
    told += ["| " + " | ".join(f"{row[name]:,.0f}" for name in names) + " |" for row in rows]
    return [*told, ""]


def main() -> None:
    """Write the report of the named results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+", help="JSON files that python -m faults.run wrote")
    parser.add_argument("--out", type=Path, default=Path("docs/reports/fault-suite.md"), help="file of the report")
    options = parser.parse_args()
    results = [Result.read(path) for path in options.results]
    options.out.write_text(markdown(results))
    for each in results:
        if each.samples:
            curves(each, options.out.parent)
    print(options.out)


if __name__ == "__main__":
    main()
