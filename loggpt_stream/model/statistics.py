"""A session's losses and lines → named statistics → one score.

Each statistic becomes a surprise, -log of a p-value with a modelled tail: a few dozen normal sessions give only coarse
ranks, so it is put on a logarithmic scale, centred and scaled by the normal calibration sessions, and read off the
normal distribution. A count that is 0 in most normal sessions has no such distribution: what is known of it is how many
of them have any. The score of a session is the sum of its surprises, as in Fisher's combination of p-values (Fisher,
Statistical Methods for Research Workers, 1932). Which statistics take part is calibration's choice.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.special import log_ndtr

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CLIP_NATS: Final = 20.0
TOP_K: Final = 5
# The narrowest spread of a statistic on the logarithmic scale, a fifth of its value: where calibration's sessions are
# all alike, a hair's difference is no surprise yet.
LEAST_SPREAD: Final = 0.2

# What a count or a time adds above this counts by its logarithm: a burst of a hundred lines never seen, which some
# normal sessions have, shall not outweigh all that the model says. (Losses are clipped line by line.)
CAP_NATS: Final = 10.0

# What the language model says, and what needs none.
FROM_MODEL: Final = (
    "mean_line_loss",
    "max_line_loss",
    "end_loss",
    "digest_loss",
    "digest_end_loss",
    "top_k_misses",
)
FROM_LINES: Final = ("absent_lines", "unseen_lines", "untimely_line")
STATISTICS: Final = (*FROM_MODEL, *FROM_LINES)
COUNTS: Final = ("unseen_lines",)
# Those that never fall while a session grows: by them an open session may be judged (loggpt_stream.model.early).
EARLY: Final = ("max_line_loss", "unseen_lines")

# No part of a score: by it calibration may weigh sessions of one length against those of another.
LENGTH: Final = "session_lines"

COMBINED: Final = "everything"
MODEL: Final = "language_model"
# Named combinations that calibration chooses from, the default first. Chosen by measurement on validation sessions:
# docs/technical-report.md.
COMBINATIONS: Final[dict[str, tuple[str, ...]]] = {
    COMBINED: ("mean_line_loss", "digest_loss", "digest_end_loss", *FROM_LINES),
    MODEL: ("mean_line_loss", "digest_loss", "digest_end_loss"),
    "lines": FROM_LINES,
}


def clipped(losses: np.ndarray) -> np.ndarray:
    """Return losses of lines (nats) of which what is above CLIP_NATS counts by its logarithm.

    A line never seen costs hundreds of nats. So one strange line does not hide all others in a mean, and yet no two
    sessions are made equal.
    """
    counted: np.ndarray = np.minimum(losses, CLIP_NATS) + np.log1p(np.maximum(losses - CLIP_NATS, 0.0))
    return counted


@dataclass(frozen=True, slots=True)
class Scale:
    """Where a statistic of normal sessions lies, on the scale log1p(x - shift)."""

    shift: float
    centre: float
    spread: float

    @classmethod
    def fit(cls, values_N: np.ndarray) -> Scale:
        """Fit to the values of normal sessions. The median and the larger of std and 1.48 MAD."""
        shift = min(0.0, float(values_N.min()))
        logged = np.log1p(values_N - shift)
        centre = float(np.median(logged))
        mad = 1.4826 * float(np.median(np.abs(logged - centre)))
        return cls(shift, centre, max(float(logged.std()), mad, LEAST_SPREAD))

    def surprise(self, value: float) -> float:
        """Return -log P(a normal session reaches `value`), in nats, from the modelled tail."""
        z = (math.log1p(max(value - self.shift, 0.0)) - self.centre) / self.spread
        return -float(log_ndtr(-z))


@dataclass(frozen=True, slots=True)
class CountScale:
    """How many normal sessions have any of what nearly all have none of.

    share: of the normal sessions, by Krichevsky and Trofimov's estimate (The performance of universal encoding, 1981):
    half a session more, so that what none of a few dozen has is not impossible.
    """

    share: float

    @classmethod
    def fit(cls, values_N: np.ndarray) -> CountScale:
        """Fit to the counts of normal sessions. Each of them counts once, however high: some may be failures."""
        return cls(float((np.count_nonzero(values_N) + 0.5) / (len(values_N) + 1)))

    def surprise(self, value: float) -> float:
        """Return -log P(a normal session has `value` or more), in nats; each further one is as improbable as the first.

        So the count has a geometric distribution.
        """
        return -value * math.log(self.share)


AnyScale = Scale | CountScale


def fit_scales(statistics: Sequence[Mapping[str, float]], names: Sequence[str]) -> dict[str, AnyScale]:
    """Fit a scale to each of the statistics `names` of normal sessions."""
    values = {name: np.array([each[name] for each in statistics]) for name in names}
    return {name: _scale_of(name, values_N).fit(values_N) for name, values_N in values.items()}


def _scale_of(name: str, values_N: np.ndarray) -> type[AnyScale]:
    # Where most sessions have some, how many they have says more than whether they have any.
    return CountScale if name in COUNTS and np.median(values_N) == 0 else Scale


def surprises(statistics: Mapping[str, float], scales: Mapping[str, AnyScale]) -> dict[str, float]:
    """Return the surprise of each statistic that has a scale, in nats."""
    return {name: _capped(name, scale.surprise(statistics[name])) for name, scale in scales.items()}


def _capped(name: str, nats: float) -> float:
    return nats if name in FROM_MODEL or nats <= CAP_NATS else CAP_NATS + math.log1p(nats - CAP_NATS)


def combine(statistics: Mapping[str, float], scales: Mapping[str, AnyScale]) -> float:
    """Return the combined score: the sum of the surprises, in nats."""
    return math.fsum(surprises(statistics, scales).values())


def slack(score: float) -> float:
    """Return the distance below which two scores are one: batches, threads and devices differ in the last digits."""
    return max(1e-3, 1e-4 * abs(score))


def scales_to_json(scales: Mapping[str, AnyScale]) -> dict[str, dict[str, float]]:
    """Return `scales` as JSON-ready values."""
    return {name: asdict(scale) for name, scale in scales.items()}


def scales_from_json(values: Mapping[str, Mapping[str, float]]) -> dict[str, AnyScale]:
    """Return what `scales_to_json` was given."""
    return {name: (CountScale if "share" in scale else Scale)(**scale) for name, scale in values.items()}
