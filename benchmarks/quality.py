"""`make quality`: how well the detector detects, measured by a fixed protocol, in one table.

Vocabulary, tokenizer, line frequencies and model come from split=train; thresholds, and what combination decides, from
val, or without labels from the sessions that the trainer held out; test (and nova34's second day) is scored once. Each
figure is the mean of three seeds. Needs the data sets of ../shared/data; cases whose data is not there are skipped.

    python -m benchmarks.quality                        everything: about an hour on two cores
    python -m benchmarks.quality --variant default      without the ablations
    python -m benchmarks.quality --out runs/quality     where results.json and the log go

A full run also replaces docs/reports/quality.json, from which `make report` writes docs/technical-report.md.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from benchmarks.quality_cases import CASES, SEEDS, VARIANTS
from benchmarks.quality_fit import Fit, run_fit
from benchmarks.technical_report import RESULTS, main_table, read

if TYPE_CHECKING:
    from collections.abc import Iterator

# Ablations need a direction, not a digit.
_ABLATION_SEEDS = (1, 2)


def main() -> None:
    """Do all fits, showing progress, and write results.json after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=list(CASES), help="only this case")
    parser.add_argument("--variant", action="append", choices=list(VARIANTS), help="only this change")
    parser.add_argument("--seed", action="append", type=int, help="only this seed")
    parser.add_argument("--out", type=Path, default=Path("runs/quality"), help="output folder (default: runs/quality)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    fits = list(planned(options))
    results: list[dict[str, Any]] = []
    began_s = time.monotonic()
    print(f"{len(fits)} fits, two at a time; what each says of itself: {options.out}/fits.log", flush=True)
    context = multiprocessing.get_context("spawn")
    with context.Pool(2, initializer=_quiet, initargs=(str(options.out / "fits.log"),)) as pool:
        for result in pool.imap_unordered(run_fit, fits):
            results.append(result)
            (options.out / "results.json").write_bytes(orjson.dumps(_rounded(_ordered(results))))
            everything = result["combinations"]["everything"]
            print(
                f"{len(results)}/{len(fits)} after {(time.monotonic() - began_s) / 60:.0f} min: {result['case']} "
                f"{result['variant']} seed {result['seed']}: val AUC {everything['val_auc']:.3f} AP "
                f"{everything['val_ap']:.3f}, trained in {result['train_s']:.0f} s",
                flush=True,
            )
    if not (options.case or options.variant or options.seed):
        shutil.copyfile(options.out / "results.json", RESULTS)
    print("\n".join(main_table(read(options.out / "results.json"))))


def planned(options: argparse.Namespace) -> Iterator[Fit]:
    """Yield the fits, those of the main table first."""
    cases = [case for case in CASES.values() if not options.case or case.name in options.case]
    for case in cases:
        if not case.available:
            print(f"{case.name}: skipped, {case.log} is not there")
    variants = [each for each in VARIANTS.values() if not options.variant or each.name in options.variant]
    fits = [
        Fit(case.name, variant.name, seed)
        for case in cases
        for variant in variants
        for seed in options.seed or SEEDS
        if case.available and case.name in variant.cases and (variant.name == "default" or seed in _ABLATION_SEEDS)
    ]
    yield from sorted(fits, key=lambda fit: (fit.variant != "default", fit.variant != "default" and fit.seed))


def _ordered(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    places = {name: place for place, name in enumerate((*CASES, *VARIANTS))}
    return sorted(results, key=lambda each: (places[each["case"]], places[each["variant"]], each["seed"]))


def _rounded(value: Any) -> Any:  # noqa: ANN401 - JSON
    """Return JSON-ready values with six digits behind the point: the file is kept beside the report."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    return value


def _quiet(log: str) -> None:
    """Send what a fit prints to a file; one thread each: two processes fill two cores."""
    os.environ["OMP_NUM_THREADS"] = "1"
    with contextlib.suppress(OSError):
        stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(stream, sys.stdout.fileno())
        os.dup2(stream, sys.stderr.fileno())


if __name__ == "__main__":
    main()
