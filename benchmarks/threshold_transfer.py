"""How well a threshold chosen on one half of the labelled validation sessions serves the other half.

Uses the validation scores that `make quality` left in docs/reports/quality.json; looks at no test session.

    python -m benchmarks.threshold_transfer            two minutes; the table of docs/decisions/0010
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import orjson

from benchmarks.quality_cases import VARIANTS
from benchmarks.technical_report import RESULTS
from calibrate.curves import counts_at
from calibrate.threshold import best_f1_cut, cheapest_cut, score_spread

if TYPE_CHECKING:
    from collections.abc import Iterator

_HALVINGS: Final = 8
_LEAST_FAILURES: Final = 3
# Cost of a miss and of a false alarm; None: F1 decides.
_GOALS: Final = (None, (10.0, 1.0), (1.0, 1.0), (1.0, 10.0))
_SPREADS: Final = (0.0, 0.2, 0.3, 0.4, 0.5, None)


def main() -> None:
    """Print the table: F1 on the other half (more is better), or its cost (less is better)."""
    named = ["best of the half", *(f"spread {each:g}" for each in _SPREADS if each), "as calibrate does"]
    print(f"| sessions | goal | {' | '.join(named)} |")
    print("| --- | --- |" + " ---: |" * len(named))
    fits = [fit for fit in orjson.loads(RESULTS.read_bytes()) if not VARIANTS[fit["variant"]].contamination]
    for case in dict.fromkeys(fit["case"] for fit in fits):
        halves = [each for fit in fits if fit["case"] == case for each in _halves(*fit["scores"]["val"])]
        for goal in _GOALS:
            worth = [np.mean([_worth(one, other, spread, goal) for one, other in halves]) for spread in _SPREADS]
            what = f"cost: miss {goal[0]:g}, false alarm {goal[1]:g}" if goal else "F1"
            print(f"| {case} | {what} | {' | '.join(f'{each:.3f}' for each in worth)} |")


def _halves(
    scores: list[float], truth: list[int]
) -> Iterator[tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]]:
    scores_N, truth_N = np.array(scores), np.array(truth, dtype=bool)
    generator = np.random.default_rng(1)
    for _ in range(_HALVINGS):
        order = generator.permutation(len(scores_N))
        one, other = order[: len(order) // 2], order[len(order) // 2 :]
        if min(truth_N[one].sum(), truth_N[other].sum()) >= _LEAST_FAILURES:
            yield (scores_N[one], truth_N[one]), (scores_N[other], truth_N[other])


def _worth(
    one: tuple[np.ndarray, np.ndarray],
    other: tuple[np.ndarray, np.ndarray],
    spread: float | None,
    goal: tuple[float, float] | None,
) -> float:
    spread = score_spread(*one) if spread is None else spread
    if goal is None:
        return float(counts_at(*other, np.array([best_f1_cut(*one, spread=spread)])).f1[0])
    cut = cheapest_cut(*one, cost_miss=goal[0], cost_false_alarm=goal[1], spread=spread)
    counts = counts_at(*other, np.array([cut]))
    return float(goal[0] * counts.fn_T[0] + goal[1] * counts.fp_T[0])


if __name__ == "__main__":
    main()
