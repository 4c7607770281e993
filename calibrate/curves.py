"""Scores and truth → counts over thresholds, curves' areas, and intervals. Pure, no I/O.

A session is flagged where its score is greater than the threshold, as the daemon does it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.special import ndtr
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score, roc_auc_score

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

RESAMPLES: Final = 1000
CONFIDENCE: Final = 0.95
# Scores that agree in so many significant digits are one score: fp32 gives hardly more, and the batch decides the rest.
SAME_SCORE_DIGITS: Final = 5
# Resamples are weighed together, this many numbers at a time (32 MB).
_CELLS_AT_ONCE: Final = 4_000_000


@dataclass(frozen=True, slots=True)
class Counts:
    """The confusion matrix at each of T thresholds, and what follows from it (all of shape T)."""

    tp_T: np.ndarray
    fp_T: np.ndarray
    fn_T: np.ndarray
    tn_T: np.ndarray

    @property
    def precision(self) -> np.ndarray:
        """Share of the flagged that are anomalous; 0 where nothing is flagged."""
        return _share(self.tp_T, self.tp_T + self.fp_T)

    @property
    def recall(self) -> np.ndarray:
        """Share of the anomalous that are flagged; 0 where there are none."""
        return _share(self.tp_T, self.tp_T + self.fn_T)

    @property
    def f1(self) -> np.ndarray:
        """Harmonic mean of precision and recall."""
        return _share(2 * self.tp_T, 2 * self.tp_T + self.fp_T + self.fn_T)

    @property
    def false_alarm_rate(self) -> np.ndarray:
        """Share of the normal that are flagged; 0 where there are none."""
        return _share(self.fp_T, self.fp_T + self.tn_T)


def counts_at(scores_N: np.ndarray, truth_N: np.ndarray, thresholds_T: np.ndarray) -> Counts:
    """Return the confusion matrix at each threshold. `truth_N` is True for anomalous sessions."""
    tp_T = _above(scores_N[truth_N], thresholds_T)
    fp_T = _above(scores_N[~truth_N], thresholds_T)
    return Counts(tp_T, fp_T, int(truth_N.sum()) - tp_T, int((~truth_N).sum()) - fp_T)


def expected_counts(scores_N: np.ndarray, truth_N: np.ndarray, thresholds_T: np.ndarray, spread: float) -> Counts:
    """Return the confusion matrix expected of sessions that score like these, but not exactly.

    Each score stands for a normal distribution of standard deviation `spread` around it, on the scale log1p (a kernel
    density of each class; Silverman, Density Estimation, 1986). Scores are not negative.
    """
    logged_N, logged_T = np.log1p(np.maximum(scores_N, 0)), np.log1p(thresholds_T)
    # One threshold at a time: all of them beside all sessions can be gigabytes.
    tp_T, fp_T = (
        np.array([ndtr((of - each) / spread).sum() for each in logged_T])
        for of in (logged_N[truth_N], logged_N[~truth_N])
    )
    return Counts(tp_T, fp_T, truth_N.sum() - tp_T, (~truth_N).sum() - fp_T)


def sweep_thresholds(scores_N: np.ndarray) -> np.ndarray:
    """Return the thresholds that a sweep tries, ascending: 1.0 to 20.0 by 0.1, and every distinct score."""
    return np.union1d(np.arange(10, 201) / 10, scores_N)


def average_precision(scores_N: np.ndarray, truth_N: np.ndarray) -> float | None:
    """Return the area under the precision-recall curve (average precision), or None where only one class is there."""
    return float(average_precision_score(truth_N, scores_N)) if _both(truth_N) else None


def auc_roc(scores_N: np.ndarray, truth_N: np.ndarray) -> float | None:
    """Return the area under the ROC curve, or None where only one class is there."""
    return float(roc_auc_score(truth_N, scores_N)) if _both(truth_N) else None


@dataclass(frozen=True, slots=True)
class DetectionMetrics:
    """How well scores and a threshold tell anomalous sessions from normal ones.

    auc_roc, auc_pr: None where only one class is there. false_alarm_rate: share of the normal sessions flagged (0 where
    there are none). intervals: (low, high) of CONFIDENCE by the figure's name; empty where only one class is there.
    """

    sessions: int
    anomalous: int
    threshold: float
    tp: int
    fp: int
    fn: int
    tn: int
    precision: float
    recall: float
    f1: float
    false_alarm_rate: float
    auc_roc: float | None
    auc_pr: float | None
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)


def detection_metrics(
    scores_N: np.ndarray,
    truth_N: np.ndarray,
    threshold: float,
    groups_N: Sequence[Hashable] | np.ndarray | None = None,
    *,
    seed: int = 42,
    resamples: int = RESAMPLES,
) -> DetectionMetrics:
    """Return the metrics of N sessions at `threshold`, with bootstrap intervals.

    `truth_N` is True for anomalous sessions. Sessions of one group (`groups_N`; without it each is its own) are not
    independent, so whole groups are drawn; groups with and without an anomalous session are drawn apart, so that every
    resample has both classes. Raises `ValueError` where there is no session.
    """
    scores_N, truth_N = np.asarray(scores_N, dtype=np.float64), np.asarray(truth_N, dtype=bool)
    if not scores_N.size:
        raise ValueError("no sessions to measure")
    counts = counts_at(scores_N, truth_N, np.array([threshold]))
    drawn = _bootstrap(scores_N, truth_N, threshold, groups_N, seed=seed, resamples=resamples) if _both(truth_N) else {}
    tail = 50 * (1 - CONFIDENCE)
    return DetectionMetrics(
        sessions=len(scores_N),
        anomalous=int(truth_N.sum()),
        threshold=float(threshold),
        tp=int(counts.tp_T[0]),
        fp=int(counts.fp_T[0]),
        fn=int(counts.fn_T[0]),
        tn=int(counts.tn_T[0]),
        precision=float(counts.precision[0]),
        recall=float(counts.recall[0]),
        f1=float(counts.f1[0]),
        false_alarm_rate=float(counts.false_alarm_rate[0]),
        auc_roc=auc_roc(scores_N, truth_N),
        auc_pr=average_precision(scores_N, truth_N),
        intervals={
            name: (float(np.percentile(drawn_R, tail)), float(np.percentile(drawn_R, 100 - tail)))
            for name, drawn_R in drawn.items()
        },
    )


def rate_interval(count: int, of: int) -> tuple[float, float] | None:
    """Return the exact binomial interval (Clopper & Pearson, Biometrika 1934) of a share; None of nothing."""
    if not of:
        return None
    interval = binomtest(count, of).proportion_ci(confidence_level=CONFIDENCE, method="exact")
    return float(interval.low), float(interval.high)


@dataclass(frozen=True, slots=True)
class SharedScore:
    """The score that most distinct sessions have: sessions that read alike (same masked lines) count once.

    examples: indices of two of those sessions, or of the only one.
    """

    score: float
    sharing: int
    distinct: int
    distinct_scores: int
    examples: tuple[int, ...]

    @property
    def share(self) -> float:
        """Share of the distinct sessions that have this score."""
        return self.sharing / self.distinct


def most_shared_score(scores_N: np.ndarray, contents_N: Sequence[Hashable]) -> SharedScore:
    """Return the score shared by most distinct sessions. `contents_N` is equal where sessions read alike."""
    first = list({content: index for index, content in reversed(list(enumerate(contents_N)))}.values())[::-1]
    rounded_D = np.array([float(f"{score:.{SAME_SCORE_DIGITS}g}") for score in scores_N[first].tolist()])
    values, inverse_D, counts = np.unique(rounded_D, return_inverse=True, return_counts=True)
    mode = int(np.argmax(counts))
    sharing = [first[i] for i in np.flatnonzero(inverse_D == mode)]
    return SharedScore(float(scores_N[sharing[0]]), len(sharing), len(first), len(values), tuple(sharing[:2]))


def weighted_figures(
    scores_N: np.ndarray, truth_N: np.ndarray, threshold: float, weights_RN: np.ndarray
) -> dict[str, np.ndarray]:
    """Return each figure under each of R weightings of the sessions, by name.

    The areas are sklearn's `roc_auc_score` and `average_precision_score` with weights, for all weightings in one pass:
    one by one they take minutes where this takes seconds. nan where a weighting leaves one class only.
    """
    order = np.argsort(-scores_N, kind="stable")
    starts = np.flatnonzero(np.diff(scores_N[order], prepend=np.inf))
    tp_RT = np.add.reduceat((weights_RN * truth_N)[:, order], starts, axis=1).cumsum(axis=1)
    fp_RT = np.add.reduceat((weights_RN * ~truth_N)[:, order], starts, axis=1).cumsum(axis=1)
    flagged_N = scores_N > threshold
    tp_R, fp_R = weights_RN @ (flagged_N & truth_N), weights_RN @ (flagged_N & ~truth_N)
    anomalous_R, normal_R = tp_RT[:, -1], fp_RT[:, -1]
    with np.errstate(invalid="ignore"):
        recall_RT, false_alarms_RT = tp_RT / anomalous_R[:, None], fp_RT / normal_R[:, None]
        precision_RT = np.nan_to_num(tp_RT / (tp_RT + fp_RT))
        before_RT = np.concatenate([np.zeros((len(tp_RT), 1)), recall_RT[:, :-1]], axis=1)
        return {
            "auc_roc": (np.diff(false_alarms_RT, axis=1, prepend=0) * (recall_RT + before_RT) / 2).sum(axis=1),
            "auc_pr": ((recall_RT - before_RT) * precision_RT).sum(axis=1),
            "precision": _share(tp_R, tp_R + fp_R),
            "recall": tp_R / anomalous_R,
            "f1": _share(2 * tp_R, tp_R + fp_R + anomalous_R),
            "false_alarm_rate": fp_R / normal_R,
        }


def _bootstrap(
    scores_N: np.ndarray,
    truth_N: np.ndarray,
    threshold: float,
    groups_N: Sequence[Hashable] | np.ndarray | None,
    *,
    seed: int,
    resamples: int,
) -> dict[str, np.ndarray]:
    """Return each figure over the resamples that have both classes."""
    number_of: dict[Hashable, int] = {}
    names = range(len(truth_N)) if groups_N is None else groups_N
    group_N = np.array([number_of.setdefault(name, len(number_of)) for name in names])
    with_anomaly_G = np.bincount(group_N, weights=truth_N) > 0
    strata = [np.flatnonzero(with_anomaly_G), np.flatnonzero(~with_anomaly_G)]
    generator = np.random.default_rng(seed)
    parts: list[dict[str, np.ndarray]] = []
    at_once = max(1, _CELLS_AT_ONCE // len(truth_N))
    for start in range(0, resamples, at_once):
        times_RG = np.zeros((min(at_once, resamples - start), len(number_of)))
        for times_G in times_RG:
            for stratum in strata:
                if stratum.size:
                    np.add.at(times_G, stratum[generator.integers(stratum.size, size=stratum.size)], 1)
        parts.append(weighted_figures(scores_N, truth_N, threshold, times_RG[:, group_N]))
    drawn = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}
    return {name: finite for name, drawn_R in drawn.items() if (finite := drawn_R[np.isfinite(drawn_R)]).size}


def _above(scores_N: np.ndarray, thresholds_T: np.ndarray) -> np.ndarray:
    return np.asarray(len(scores_N) - np.searchsorted(np.sort(scores_N), thresholds_T, side="right"))


def _share(part_T: np.ndarray, of_T: np.ndarray) -> np.ndarray:
    shares_T = np.zeros(len(part_T))
    np.divide(part_T, of_T, out=shares_T, where=of_T > 0)
    return shares_T


def _both(truth_N: np.ndarray) -> bool:
    return bool(truth_N.any()) and not bool(truth_N.all())
