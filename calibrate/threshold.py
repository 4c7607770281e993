"""Scores → a threshold. Pure functions; a session is flagged where its score is greater than the threshold."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.stats import beta, gamma

from calibrate.curves import counts_at, expected_counts
from calibrate.settings import CONTAMINATION
from loggpt_stream.model.statistics import slack

if TYPE_CHECKING:
    from calibrate.curves import Counts

# History that nobody labelled holds failures: up to this share of the highest scores is not believed.
# On the scale log1p: scores half as high again, or a third lower.
_MOST_SPREAD: Final = 0.4
_FEW: Final = 100
_GRID: Final = 1000
# Expectations of so few sessions that differ by a thousandth are equal: then the cut is the one that alarms least.
_AS_GOOD: Final = 0.001
# The tail begins here: low enough to leave a few dozen sessions something to fit, high enough to be tail.
_BODY: Final = 0.7
_OUTSIDE: Final = (0.025, 0.975)
_TAIL_SHARE: Final = 0.1
_TAIL_SESSIONS: Final = 10


@dataclass(frozen=True, slots=True)
class ConformalCut:
    """A threshold with the false-alarm rate that it promises for sessions like those it was drawn from.

    rank: so many of `sessions` scores are not above it: the threshold lies a hair above the highest of them, so that a
    session that reads like that one is not flagged on one machine and passed on another. rate: at most this share of
    later normal sessions is above it, on average. supported: False where so few sessions allow no rate as fine as the
    one asked for. rate_interval: where this very threshold's share lies in 95 of 100 calibrations on as many sessions.
    """

    threshold: float
    rate: float
    rank: int
    sessions: int
    supported: bool
    rate_interval: tuple[float, float]


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


def score_spread(scores_N: np.ndarray, truth_N: np.ndarray) -> float:
    """Return how far from each of these scores another session like it may score: `spread` of the cuts below.

    A few dozen labelled sessions have few scores near the best threshold, and which of them decides is luck. So each
    stands for a distribution as wide as that of all normal sessions, at most _MOST_SPREAD; for more than _FEW sessions
    narrower by the fifth root of their number, as kernels are (Silverman, Density Estimation, 1986, section 3.3).
    0 where all score alike. Chosen on halves of validation sessions (docs/decisions/0010).
    """
    width = min(float(np.log1p(np.maximum(scores_N[~truth_N], 0)).std()), _MOST_SPREAD)
    return width * float(min((_FEW / len(scores_N)) ** 0.2, 1.0))


def best_f1_cut(scores_N: np.ndarray, truth_N: np.ndarray, *, spread: float = 0.0) -> float:
    """Return the threshold with the highest F1; of equal ones the highest threshold, which alarms least.

    spread: 0 for the best of these very sessions, else for the best that is expected (`expected_counts`).
    """
    cuts, counts = _cuts(scores_N, truth_N, spread)
    return _last_best(cuts, counts.f1, _AS_GOOD if spread else 0.0)


def cheapest_cut(
    scores_N: np.ndarray, truth_N: np.ndarray, *, cost_miss: float, cost_false_alarm: float, spread: float = 0.0
) -> float:
    """Return the threshold with the least total cost; of equal ones the highest threshold, which alarms least.

    spread: 0 for the least of these very sessions, else for the least that is expected (`expected_counts`).
    """
    cuts, counts = _cuts(scores_N, truth_N, spread)
    return _last_best(cuts, -(cost_miss * counts.fn_T + cost_false_alarm * counts.fp_T), _AS_GOOD if spread else 0.0)


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
    return ConformalCut(
        highest + slack(highest),
        rate,
        rank,
        sessions,
        supported=wanted <= sessions,
        rate_interval=sample_interval(sessions - rank, sessions),
    )


def robust_cut(normal_scores_N: np.ndarray, rate: float, contamination: float = CONTAMINATION) -> ConformalCut:
    """Return the threshold for a false-alarm rate where up to the share `contamination` of the sessions are failures.

    An exponential tail above the .7 quantile, its scale estimated from a sample censored at the top (Epstein & Sobel,
    Life testing, 1953): the highest scores, up to `contamination`, count as being high, not by how high they are, so
    that a few failures do not lift the threshold above all others of their kind. The threshold is the predictive
    quantile (Lawless, Statistical Models and Methods for Lifetime Data, 2003, section 4.1), so that the rate holds on
    average over samples as small as this.

    `rate` is a model's promise. What the sample itself guarantees, if none of it is a failure, is `guaranteed_rate` of
    the threshold. `rank` counts the scores that are not above it. It works best where the failures are clearly fewer
    than `contamination`: the highest believed score must be a usual one. Not `supported` where no score lies between
    that quantile and what may be failures, so that nothing tells how far the tail reaches.
    """
    ascending = np.sort(normal_scores_N)
    sessions = len(ascending)
    # At least as much of the tail is believed as is not.
    start = float(np.quantile(ascending, min(_BODY, 1 - 2 * contamination)))
    top = float(np.quantile(ascending, 1 - contamination, method="lower"))
    above = ascending > start
    body = ascending[above & (ascending <= top)]
    censored = int((ascending > top).sum())
    total = float((body - start).sum()) + censored * (top - start)
    beyond = min(rate / max(float(above.mean()), rate), 1.0)
    # The quantile of one further score, not of the fitted tail: k excesses know its scale only so well, and a score
    # over their mean has an F distribution with 2 and 2k degrees of freedom. For 40 sessions that is a fifth higher.
    known = max(len(body), 1)
    reach = beyond ** (-1 / known) - 1
    threshold = start + total * reach
    rank = int((normal_scores_N <= threshold + slack(threshold)).sum())
    interval = _modelled_interval(max(int(above.sum()), 1), sessions, known, reach)
    return ConformalCut(
        threshold + slack(threshold), rate, rank, sessions, supported=bool(len(body)), rate_interval=interval
    )


def _modelled_interval(above: int, sessions: int, known: int, reach: float) -> tuple[float, float]:
    """Return where the share of later sessions lies that are above a fitted tail's threshold, as `sample_interval`.

    The tail begins above a score of the sample that `above` others are above, so that what lies beyond it has a beta
    distribution; and the threshold is `reach` times the sum of `known` believed excesses, a gamma variable in units of
    the tail's true scale. Both by as many equally probable values as make the quantiles exact to a percent.
    """
    chances = (np.arange(200) + 0.5) / 200
    beyond, scale = beta.ppf(chances, above, sessions + 1 - above), gamma.ppf(chances, known)
    low, high = np.quantile(np.outer(beyond, np.exp(-reach * scale)), _OUTSIDE).tolist()
    return low, high


def sample_interval(above: int, sessions: int) -> tuple[float, float]:
    """Return where the share of later sessions lies that are above a threshold which `above` of `sessions` are above.

    For a threshold that is one of the sample's own scores the share has a beta distribution (Vovk, Conditional validity
    of inductive conformal predictors, 2012); for one between two of them about that of the lower.
    """
    low, high = (float(beta.ppf(share, above + 1, max(sessions - above, 1))) for share in _OUTSIDE)
    return low, high


def guaranteed_rate(normal_scores_N: np.ndarray, threshold: float) -> float:
    """Return the conformal bound: at most this share of later sessions like these is above, on average."""
    return float((1 + (normal_scores_N > threshold).sum()) / (1 + len(normal_scores_N)))


def tail_cut(normal_scores_N: np.ndarray, rate: float) -> ConformalCut:
    """Return the threshold for a rate finer than the sample supports, from a generalised Pareto tail.

    Peaks over threshold (Coles, An Introduction to Statistical Modeling of Extreme Values, 2001, section 4): what the
    highest tenth of the scores (at least 10 of them) has above the next one is fitted by probability-weighted moments
    (Hosking & Wallis 1987), which few values suffice for. It is a model and no guarantee: beyond the sample, nothing
    can guarantee. Never below the highest score of the sample, whose own rate is known to be greater.
    """
    ascending = np.sort(normal_scores_N)
    sessions = len(ascending)
    above = min(max(_TAIL_SESSIONS, round(_TAIL_SHARE * sessions)), sessions - 1)
    start = float(ascending[sessions - above - 1])
    excess = ascending[sessions - above :] - start
    mean = float(excess.mean())
    weighted = float((excess * (above - np.arange(1, above + 1)) / max(above - 1, 1)).mean())
    # Between an exponential tail and one of barely finite variance: a bounded tail would promise what so few values
    # cannot show. (Hosking & Wallis's shape k is minus the usual xi.)
    shape = min(max(mean / (mean - 2 * weighted) - 2, -0.5), 0.0) if mean > 2 * weighted else 0.0
    scale = mean * (1 + shape)
    share = above / sessions
    reach = -math.log(rate / share) if shape == 0 else (1 - (rate / share) ** shape) / shape
    threshold = max(start + scale * reach, float(ascending[-1]))
    # Not below the highest score, so that its share is no more than that one's; how much less, nothing tells.
    interval = (0.0, sample_interval(0, sessions)[1])
    return ConformalCut(threshold + slack(threshold), rate, sessions, sessions, supported=False, rate_interval=interval)


def _cuts(scores_N: np.ndarray, truth_N: np.ndarray, spread: float) -> tuple[np.ndarray, Counts]:
    if not spread:
        cuts = candidate_cuts(scores_N)
        return cuts, counts_at(scores_N, truth_N, cuts)
    logged_N = np.log1p(np.maximum(scores_N, 0))
    cuts = np.expm1(np.linspace(logged_N.min() - 4 * spread, logged_N.max() + 4 * spread, _GRID))
    return cuts, expected_counts(scores_N, truth_N, cuts, spread)


def _last_best(cuts: np.ndarray, worth: np.ndarray, as_good: float) -> float:
    """Return the highest cut that is as good as the best but for the share `as_good` of all that a cut can change."""
    least = worth.max() - as_good * (worth.max() - worth.min())
    return float(cuts[np.flatnonzero(worth >= least)[-1]])
