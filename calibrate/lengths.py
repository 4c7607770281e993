"""Sessions of very different length, calibrated apart where the data says so.

A kind has one threshold. Where sessions of some length alarm more often than the others beyond chance, their scores
count by a factor below 1, such that their normal tail meets the threshold at the same rate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.stats import hypergeom

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

# Sessions are told apart by the order of magnitude of their lines, in half steps: 1, 2 to 3, 4 to 9, 10 to 29 ...
_LIMITS: Final = (2, 4, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000)
_LEAST_SESSIONS: Final = 30
# Failures may all be of one length. Where more than this share of a band might be failures, its tail may be theirs.
_MOST_FAILURES: Final = 0.2
_CHANCE: Final = 0.01


@dataclass(frozen=True, slots=True)
class LengthBand:
    """Sessions of `least` to `most` lines; None where there is no most.

    factor: what their scores are multiplied by, 1 where they are judged like all others. sessions: of calibration.
    alarming: so many of them were above the threshold that all lengths have in common.
    """

    least: int
    most: int | None
    factor: float
    sessions: int
    alarming: int

    @property
    def name(self) -> str:
        """Return the lengths in words."""
        if self.most is None:
            return f"{self.least:,} lines or more"
        if self.most == self.least:
            return f"{self.least:,} line{'s' * (self.least > 1)}"
        return f"{self.least:,} to {self.most:,} lines"


@dataclass(frozen=True, slots=True)
class Lengths:
    """The bands of a kind, ascending, and what would have been parted if fewer sessions might be failures.

    contamination: the greatest share at which `not_parted` could be parted, 0 if there is nothing.
    """

    bands: tuple[LengthBand, ...]
    not_parted: LengthBand | None = None
    contamination: float = 0.0

    @property
    def parted(self) -> bool:
        """Tell whether some length counts differently."""
        return any(band.factor < 1 for band in self.bands)

    @property
    def factors(self) -> tuple[tuple[int, float], ...]:
        """Return (least lines, factor) of each band, ascending; () where all lengths count alike."""
        return tuple((band.least, band.factor) for band in self.bands) if self.parted else ()

    def factors_of(self, lines_N: np.ndarray) -> np.ndarray:
        """Return the factor of sessions with so many lines."""
        place_N = np.searchsorted([band.least for band in self.bands], lines_N, side="right") - 1
        return np.array([band.factor for band in self.bands])[place_N]


def part_lengths(
    scores_N: np.ndarray, lines_N: np.ndarray, contamination: float, cut: Callable[[np.ndarray, float], float]
) -> Lengths:
    """Find lengths whose normal sessions alarm more often than the others, and the factors that mend it.

    cut: scores and the share of them that may be failures → threshold. contamination: that share over all sessions; all
    of them may have the same length. Whether a band alarms more is tested against chance (hypergeometric, with
    Bonferroni's correction).
    """
    above_N = scores_N > cut(scores_N, contamination)
    failures = contamination * len(scores_N)
    members = _bands(lines_N, max(_LEAST_SESSIONS, failures / _MOST_FAILURES))
    bands = _counted(members, above_N)
    odd = _improbable(bands)
    if not odd:
        return Lengths(bands, *_not_parted(lines_N, above_N))

    def cut_of(band_N: np.ndarray) -> float:
        return cut(scores_N[band_N], min(failures / int(band_N.sum()), 0.5))

    usual = cut_of(~np.any([members[band.least] for band in odd], axis=0))
    return Lengths(
        tuple(
            replace(band, factor=min(1.0, usual / cut_of(members[band.least]))) if band in odd else band
            for band in bands
        )
    )


def _bands(lines_N: np.ndarray, least_sessions: float) -> dict[int, np.ndarray]:
    """Return which sessions are in each band, by its least lines, ascending; one band where sessions are few."""
    found: dict[int, np.ndarray] = {}
    rest_N = np.ones(len(lines_N), dtype=bool)
    for limit in reversed(_LIMITS):
        band_N = rest_N & (lines_N >= limit)
        if band_N.sum() >= least_sessions <= (rest_N & ~band_N).sum():
            found[limit] = band_N
            rest_N &= ~band_N
    return {1: rest_N, **dict(reversed(found.items()))}


def _counted(members: Mapping[int, np.ndarray], above_N: np.ndarray) -> tuple[LengthBand, ...]:
    most = [limit - 1 for limit in members][1:]
    return tuple(
        LengthBand(least, up_to, 1.0, int(band_N.sum()), int(above_N[band_N].sum()))
        for (least, band_N), up_to in zip(members.items(), [*most, None], strict=True)
    )


def _improbable(bands: Sequence[LengthBand]) -> list[LengthBand]:
    """Return the bands that alarm more often than chance explains, the least probable first."""
    sessions, alarming = sum(band.sessions for band in bands), sum(band.alarming for band in bands)
    chances = {band: hypergeom.sf(band.alarming - 1, sessions, alarming, band.sessions) for band in bands}
    return sorted((band for band in bands if chances[band] < _CHANCE / len(bands)), key=chances.__getitem__)


def _not_parted(lines_N: np.ndarray, above_N: np.ndarray) -> tuple[LengthBand | None, float]:
    """Return the band that would be parted if no session were a failure, and the share of failures that allows it."""
    bands = _counted(_bands(lines_N, _LEAST_SESSIONS), above_N)
    odd = _improbable(bands)
    if not odd:
        return None, 0.0
    return odd[0], _MOST_FAILURES * odd[0].sessions / len(lines_N)
