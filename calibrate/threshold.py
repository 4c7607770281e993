"""Scores → a threshold. Pure functions; a session is flagged where its score is greater than the threshold."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from calibrate.curves import counts_at
from loggpt_stream.model.calibration import slack


@dataclass(frozen=True, slots=True)
class ConformalCut:
    """A threshold with the false-alarm rate that it promises for sessions like those it was drawn from.

    rank: so many of `sessions` scores are not above it: the threshold lies a hair above the highest of them, so that a
    session that reads like that one is not flagged on one machine and passed on another. rate: at most this share of
    later normal sessions is above it, on average. supported: False where so few sessions allow no rate as fine as the
    one asked for.
    """

    threshold: float
    rate: float
    rank: int
    sessions: int
    supported: bool


def candidate_cuts(scores_N: np.ndarray) -> np.ndarray:
    """Return one threshold for each way to cut the scores, ascending.

    The first flags everything, the last (the highest score) nothing; between them lies the middle of each gap between
    neighbouring distinct scores, so that neither side's nearest score decides alone.
    """
    distinct = np.unique(scores_N)
    low, high = distinct[:-1], distinct[1:]
    middle = low + (high - low) / 2
    # Where no number lies between two neighbours, the middle rounds to one of them: only the lower one cuts.
    middle = np.where(middle < high, middle, low)
    return np.concatenate([[np.nextafter(distinct[0], -np.inf)], middle, [distinct[-1]]])


def best_f1_cut(scores_N: np.ndarray, truth_N: np.ndarray) -> float:
    """Return the threshold with the highest F1; of equal ones the highest threshold, which alarms least."""
    cuts = candidate_cuts(scores_N)
    return _last_best(cuts, counts_at(scores_N, truth_N, cuts).f1)


def cheapest_cut(scores_N: np.ndarray, truth_N: np.ndarray, *, cost_miss: float, cost_false_alarm: float) -> float:
    """Return the threshold with the least total cost; of equal ones the highest threshold, which alarms least."""
    cuts = candidate_cuts(scores_N)
    counts = counts_at(scores_N, truth_N, cuts)
    return _last_best(cuts, -(cost_miss * counts.fn_T + cost_false_alarm * counts.fp_T))


def conformal_cut(normal_scores_N: np.ndarray, rate: float) -> ConformalCut:
    """Return the conformal quantile of normal scores for a false-alarm rate.

    With k = ceil((n+1)(1-rate)), a further session exchangeable with the n normal ones is above the k-th smallest with
    a probability of at most (n+1-k)/(n+1) (Vovk et al., Algorithmic Learning in a Random World, 2005). Where k is
    greater than n, n sessions cannot support that rate: the highest score is taken, which promises 1/(n+1).
    """
    sessions = len(normal_scores_N)
    # The subtraction keeps 99.00000000000001, which is 100 * (1 - 0.01) in floating point, from becoming 100.
    wanted = math.ceil((sessions + 1) * (1 - rate) - 1e-9)
    highest = float(np.sort(normal_scores_N)[min(max(wanted, 1), sessions) - 1])
    rank = int((normal_scores_N <= highest).sum())
    rate = (sessions + 1 - rank) / (sessions + 1)
    return ConformalCut(highest + slack(highest), rate, rank, sessions, supported=wanted <= sessions)


def _last_best(cuts: np.ndarray, worth: np.ndarray) -> float:
    return float(cuts[len(cuts) - 1 - int(np.argmax(worth[::-1]))])
