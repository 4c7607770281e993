"""How true the false-alarm rate of a threshold without labels is, on sessions that no figure is measured on.

Calibrates on 39 normal sessions and a share of failures, and judges the others: many draws from the sessions that the
trainer held out, those of val, and failures of no split. What these thresholds are made of was compared by such draws;
test sessions are not read.

    python -m benchmarks.blind_rates            about a quarter of an hour; the table of docs/decisions/0007
"""

from __future__ import annotations

import argparse
import contextlib
import io
from typing import TYPE_CHECKING, Final
from unittest.mock import patch

import numpy as np

from benchmarks.quality_cases import CASES, SEEDS
from benchmarks.quality_fit import Fit, blind, fitted
from calibrate.curves import counts_at
from calibrate.per_kind import CalibrationRequest, calibrate_kinds
from calibrate.settings import CONTAMINATION
from loggpt_stream.model import statistics

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from calibrate.sessions import ScoredSession

_DRAWS: Final = 30
_SESSIONS: Final = 39
_ASKED: Final = (0.02, 0.05)
_FAILURES: Final = (0.0, 0.025, 0.05, 0.1)


def _on_the_logarithmic_scale() -> AbstractContextManager[object]:
    """Take a line never seen for what it was before: a statistic like any other."""
    return patch.object(statistics, "COUNTS", ())


# What is believed of the history, and how lines never seen count.
_WAYS: Final[dict[str, tuple[float, Callable[[], AbstractContextManager[object]]]]] = {
    "as shipped": (CONTAMINATION, contextlib.nullcontext),
    "unseen lines on the logarithmic scale": (CONTAMINATION, _on_the_logarithmic_scale),
    "robust to 7.5 %": (0.075, contextlib.nullcontext),
    "robust to 5 %": (0.05, contextlib.nullcontext),
    "conformal": (0.0, contextlib.nullcontext),
}


def main() -> None:
    """Print the table, a case at a time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=list(CASES), help="only this case")
    options = parser.parse_args()
    print(f"| sessions | asked | failures | {' | '.join(f'{way}: rate / F1' for way in _WAYS)} |")
    print("| --- | ---: | ---: |" + " ---: |" * len(_WAYS), flush=True)
    for case in options.case or CASES:
        if not CASES[case].available:
            print(f"{case}: skipped, {CASES[case].log} is not there")
            continue
        by_seed = [_draws(_quietly(Fit(case, "default", seed)), seed) for seed in SEEDS]
        for asked in _ASKED:
            for share in _FAILURES:
                cells = []
                for way in _WAYS:
                    rows = [row for found in by_seed for row in found[asked, share, way]]
                    cells.append(" / ".join(f"{value:.3f}" for value in np.mean(rows, axis=0)))
                print(f"| {case} | {asked:.0%} | {share:.1%} | {' | '.join(cells)} |", flush=True)


def _quietly(fit: Fit) -> dict[str, list[ScoredSession]]:
    nowhere = io.StringIO()
    with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        scored, _, _ = fitted(fit, ("held", "val", "failures"))
    return scored.by_role


def _draws(
    by_role: dict[str, list[ScoredSession]], seed: int
) -> dict[tuple[float, float, str], list[tuple[float, float]]]:
    """Return (false-alarm rate, F1) of each draw, by the rate asked for, the share of failures and the way."""
    normal = [*by_role["held"], *(each for each in by_role["val"] if not each.truth)]
    failed = [each for each in by_role["val"] if each.truth]
    generator = np.random.default_rng(seed)
    found: dict[tuple[float, float, str], list[tuple[float, float]]] = {}
    for _ in range(_DRAWS):
        order, odd = generator.permutation(len(normal)), generator.permutation(len(by_role["failures"]))
        judged = [*(normal[i] for i in order[_SESSIONS:]), *failed]
        for share in _FAILURES:
            count = round(share * _SESSIONS / (1 - share))
            drawn = [*(normal[i] for i in order[:_SESSIONS]), *(by_role["failures"][i] for i in odd[:count])]
            for asked in _ASKED:
                for way, (contamination, context) in _WAYS.items():
                    with context():
                        row = _judged(blind(drawn), judged, CalibrationRequest(asked, contamination))
                    found.setdefault((asked, share, way), []).append(row)
    return found


def _judged(
    drawn: Sequence[ScoredSession], judged: Sequence[ScoredSession], request: CalibrationRequest
) -> tuple[float, float]:
    calibration = calibrate_kinds(drawn, request, labelled=False).kinds[0].calibration
    scores_N = np.array([calibration.score(each.statistics) for each in judged])
    truth_N = np.array([bool(each.truth) for each in judged])
    counts = counts_at(scores_N, truth_N, np.array([calibration.threshold]))
    return float(counts.false_alarm_rate[0]), float(counts.f1[0])


if __name__ == "__main__":
    main()
