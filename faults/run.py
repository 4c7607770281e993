"""`make faults`: kill, stop, cut off and restart daemons and brokers, and see that everything comes out exactly once.

    python -m faults.run --quick                  each scenario once, small
    python -m faults.run                          all of it, hours
    python -m faults.run --only kill9 --rounds 200 --seed 7
    python -m faults.run --only failpoints --points 'commit|aiokafka.producer.transaction_manager'
    python -m faults.run --only soak --minutes 120

Starts three real brokers and daemons with a tiny model. Each scenario prints its seed and ends with the oracle's
verdict; results go to --out as JSON, from which `python -m faults.report` writes the report. Exit code 1 where anything
was missing, twice, unexpected or different.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Final

from faults.cluster import cluster
from faults.report import Result, now, versions
from faults.scenarios import DAEMON_POINTS, SCENARIOS, ScenarioOutcome, Size
from faults.trial import Bench
from loggpt_stream.errors import UserError
from testing.fork_server import ForkServer
from testing.kafka_server import missing_programs
from testing.tiny_bundle import tiny_bundle

_FULL: Final = Size(rounds=200, minutes=120.0)
_QUICK: Final = Size(rounds=4, minutes=2.0)
# Rounds that wait for brokers or for a session timeout take most of a minute each.
_SLOW: Final = {"zombies": 0.2, "rolling": 0.05, "leaders": 0.15, "partition": 0.2, "storm": 0.5, "cuts": 0.5}
_LEAST_ROUNDS: Final = 3


def main() -> int:
    """Run the scenarios; return 1 where any found something."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="each scenario once, small: minutes")
    parser.add_argument("--only", action="append", choices=sorted(SCENARIOS), help="this scenario (may be repeated)")
    parser.add_argument("--rounds", type=int, help="faults of each scenario")
    parser.add_argument("--minutes", type=float, help="length of the soak")
    parser.add_argument("--rate", type=float, default=300.0, help="records a second of input (default: 300)")
    parser.add_argument("--points", default=DAEMON_POINTS, help="pattern of the awaits to be killed at (the daemon's)")
    parser.add_argument("--seed", type=int, help="of the faults and the input (default: another each time)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/faults"), help="folder of results (default: runs/faults)"
    )
    options = parser.parse_args()
    missing = missing_programs()
    if missing:
        parser.error(missing)
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        return asyncio.run(run(options))
    except UserError as error:
        parser.error(str(error))


async def run(options: argparse.Namespace) -> int:
    """Start what all scenarios share, run them, and return the exit code."""
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    folder = Path(tempfile.mkdtemp(prefix="loggpt-faults-"))
    with ForkServer() as fork_server:
        bundle = await asyncio.to_thread(tiny_bundle, folder / "bundle", alert_share=1.0, early_share=1.0)
        async with cluster(folder / "kafka") as brokers:
            bench = Bench(folder, brokers, fork_server, bundle)
            right = {
                name: await _scenario(bench, name, size(options, name), seed, options)
                for name in options.only or SCENARIOS
            }
    failed = [name for name, ok in right.items() if not ok]
    if failed:
        print(f"violated: {', '.join(failed)}; the daemons' logs are in {folder}", flush=True)
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    return 0


def size(options: argparse.Namespace, name: str) -> Size:
    """Return how much of a scenario is wanted."""
    base = _QUICK if options.quick else _FULL
    rounds = options.rounds or max(_LEAST_ROUNDS, round(base.rounds * _SLOW.get(name, 1.0)))
    return Size(rounds, options.minutes or base.minutes, options.rate, options.points)


async def _scenario(bench: Bench, name: str, wanted: Size, seed: int, options: argparse.Namespace) -> bool:
    scenario = SCENARIOS[name]
    command = f"python -m faults.run --only {name} --rounds {wanted.rounds} --seed {seed} --rate {options.rate:g}"
    command += f" --minutes {wanted.minutes:g}" if name == "soak" else ""
    command += f" --points '{wanted.points}'" if wanted.points != DAEMON_POINTS else ""
    bench.say(f"{name}: {command}")
    started, began_s = now(), time.monotonic()
    outcome: ScenarioOutcome = await scenario(bench, random.Random(f"{name} {seed}"), wanted)
    verdict = outcome.verdict
    result = Result(
        scenario=name,
        description=(scenario.__doc__ or "").strip(),
        seed=seed,
        command=command,
        started=started,
        seconds=time.monotonic() - began_s,
        versions=versions(),
        faults=dict(outcome.faults),
        sessions=verdict.sessions,
        alerts=verdict.alerts,
        early_alerts=verdict.early,
        lines=verdict.lines,
        findings=verdict.findings,
        samples=[asdict(each) for each in outcome.samples],
    )
    path = result.write(options.out)
    bench.say(f"{name}: {verdict.text()}\n            {path}")
    return verdict.ok


if __name__ == "__main__":
    sys.exit(main())
