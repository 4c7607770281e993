"""A session's losses and lines → named statistics → one score.

Each statistic becomes a surprise, -log of a p-value with a modelled tail: a few dozen normal sessions give only coarse
ranks, so it is put on a logarithmic scale, centred and scaled by the normal calibration sessions, and read off the
normal distribution. A count that is 0 in most normal sessions has no such distribution: what is known of it is how many
of them have any. The score of a session is the sum of its surprises, as in Fisher's combination of p-values (Fisher,
Statistical Methods for Research Workers, 1932). Which statistics take part is calibration's choice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import numpy as np
from scipy.special import log_ndtr

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from loggpt_stream.lines.session import Session
    from loggpt_stream.model.line_frequencies import LineFrequencies
    from loggpt_stream.model.session_score import SessionScore

CLIP_NATS: Final = 20.0
TOP_K: Final = 5
# The narrowest spread of a statistic on the logarithmic scale, a fifth of its value: where calibration's sessions are
# all alike, a hair's difference is no surprise yet.
LEAST_SPREAD: Final = 0.2

# What a count or a time adds above this counts by its logarithm: a burst of a hundred lines never seen, which some
# normal sessions have, shall not outweigh all that the model says. (Losses are clipped line by line.)
CAP_NATS: Final = 10.0


def clipped(losses: np.ndarray) -> np.ndarray:
    """Return losses of lines (nats) of which what is above CLIP_NATS counts by its logarithm.

    A line never seen costs hundreds of nats. So one strange line does not hide all others in a mean, and yet no two
    sessions are made equal.
    """
    counted: np.ndarray = np.minimum(losses, CLIP_NATS) + np.log1p(np.maximum(losses - CLIP_NATS, 0.0))
    return counted


@dataclass(frozen=True, slots=True)
class ModelReading:
    """What the model says of a session, in nats.

    line_losses_L: of each line. line_set_losses_D: of the D distinct lines; empty without the line-set pass.
    tail_end_loss, line_set_end_loss: of the end in either pass; None without it. top_k_misses: share of lines of which
    some token was not among the TOP_K likeliest; None where ranks were not asked for.
    """

    line_losses_L: np.ndarray
    line_set_losses_D: np.ndarray
    tail_end_loss: float | None = None
    line_set_end_loss: float | None = None
    top_k_misses: float | None = None


@dataclass(frozen=True, slots=True)
class LineReading:
    """A session beside the lines of the training sessions. untimely: how late a line came, as `untimely` gives it."""

    frequencies: LineFrequencies
    texts: Sequence[str]
    untimely: float


ReadingT = TypeVar("ReadingT", ModelReading, LineReading)
Behind = Callable[["Session", "SessionScore", "LineFrequencies"], str | None]


@dataclass(frozen=True, slots=True)
class Statistic(Generic[ReadingT]):
    """One number about a session. Another one is a row below and, if it shall decide, its name in COMBINATIONS.

    phrase: what an alert says where it decided. compute: returns None where what it needs was not read. behind: the
    line of a session that it speaks of most, or None. count: whether it counts what most normal sessions have none of.
    monotone: whether it never falls while a session grows; such a one needs a line in `model.early` too, which
    brings it up to date line by line.
    """

    name: str
    phrase: str
    compute: Callable[[ReadingT], float | None]
    behind: Behind = lambda *_: None
    count: bool = False
    monotone: bool = False


def _line_set_loss(reading: ModelReading) -> float | None:
    losses_D = reading.line_set_losses_D
    if not losses_D.size or reading.line_set_end_loss is None:
        return None
    return (float(clipped(losses_D).sum()) + reading.line_set_end_loss) / (losses_D.size + 1)


def _raw(session: Session, index: int) -> str:
    line = session.lines[index]
    return (line.raw or line.text).partition("\n")[0]


def _unexpected_in_set(_session: Session, score: SessionScore, _: LineFrequencies) -> str | None:
    losses_D = score.line_set_losses_D
    if not losses_D.size or losses_D.max() >= CLIP_NATS:
        return None
    # A known line where others were expected before it: these are what is missing.
    return score.line_set[int(losses_D.argmax())]


def _absent(session: Session, _: SessionScore, frequencies: LineFrequencies) -> str | None:
    return next((text for text, _share in frequencies.absent(session.texts)), None)


def _unseen(session: Session, _: SessionScore, frequencies: LineFrequencies) -> str | None:
    return next((_raw(session, i) for i, text in enumerate(session.texts) if text not in frequencies), None)


# What the language model says. (`digest` is the name of the line-set pass in bundles and alerts of version 0.1.0.)
MODEL_STATISTICS: Final[tuple[Statistic[ModelReading], ...]] = (
    Statistic(
        "mean_line_loss", "its lines surprise on average", lambda reading: float(clipped(reading.line_losses_L).mean())
    ),
    Statistic(
        "max_line_loss",
        "a line surprises",
        lambda reading: float(reading.line_losses_L.max()),
        lambda session, score, _: _raw(session, int(score.line_losses_L.argmax())),
        monotone=True,
    ),
    Statistic(
        "end_loss",
        "it ends unexpectedly",
        lambda reading: reading.tail_end_loss,
        lambda session, *_: _raw(session, -1),
    ),
    Statistic("digest_loss", "its set of lines is unusual", _line_set_loss, _unexpected_in_set),
    Statistic("digest_end_loss", "lines are missing at its end", lambda reading: reading.line_set_end_loss, _absent),
    Statistic("top_k_misses", "many lines were not among those expected", lambda reading: reading.top_k_misses),
)
# What needs no model.
LINE_STATISTICS: Final[tuple[Statistic[LineReading], ...]] = (
    Statistic(
        "absent_lines",
        "lines that usually come are absent",
        lambda reading: reading.frequencies.absence(reading.texts),
        _absent,
    ),
    Statistic(
        "unseen_lines",
        "it has lines never seen in training",
        lambda reading: float(sum(text not in reading.frequencies for text in set(reading.texts))),
        _unseen,
        count=True,
        monotone=True,
    ),
    Statistic(
        "untimely_line",
        "a line came later than usual",
        lambda reading: reading.untimely,
        lambda session, score, _: None if score.untimely is None else _raw(session, score.untimely),
    ),
)
_ALL: Final[tuple[Statistic[Any], ...]] = (*MODEL_STATISTICS, *LINE_STATISTICS)
BY_NAME: Final[Mapping[str, Statistic[Any]]] = {each.name: each for each in _ALL}
STATISTICS: Final = tuple(BY_NAME)
FROM_MODEL: Final = tuple(each.name for each in MODEL_STATISTICS)
FROM_LINES: Final = tuple(each.name for each in LINE_STATISTICS)
COUNTS: Final = tuple(each.name for each in _ALL if each.count)
# By these an open session may be judged (loggpt_stream.model.early).
EARLY: Final = tuple(each.name for each in _ALL if each.monotone)


def computed(table: Iterable[Statistic[ReadingT]], reading: ReadingT) -> dict[str, float]:
    """Return the statistics of a table by name, without those that cannot be computed from the reading."""
    values = ((each.name, each.compute(reading)) for each in table)
    return {name: value for name, value in values if value is not None}


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
