"""Losses of a session → named statistics, and their combination into one score.

The combination follows Fisher's idea of adding log p-values, with tails modelled instead of ranked, since a few dozen
calibration sessions give only coarse ranks: each statistic is put on a logarithmic scale, centred and scaled by the
normal calibration sessions, and gives -log of the normal survival function.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.stats import norm

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CLIP_NATS: Final = 20.0
TOP_LINES: Final = 5

STATISTICS: Final = ("mean_line_loss", "max_line_loss", "top5_line_loss", "end_loss")
COMBINED: Final = "combined"
COMBINED_OF: Final = ("mean_line_loss", "top5_line_loss", "end_loss")


def session_statistics(line_losses_L: np.ndarray, end_loss: float) -> dict[str, float]:
    """Return the statistics of one session in nats, by name (STATISTICS).

    A line never seen costs hundreds of nats. In the mean and the top five, what a line costs above CLIP_NATS counts by
    its logarithm: one strange line does not hide all others, and yet no two sessions are made equal.
    """
    above_L = np.maximum(line_losses_L - CLIP_NATS, 0.0)
    clipped = np.minimum(line_losses_L, CLIP_NATS) + np.log1p(above_L)
    return {
        "mean_line_loss": float(clipped.mean()),
        "max_line_loss": float(line_losses_L.max()),
        "top5_line_loss": float(np.sort(clipped)[-TOP_LINES:].mean()),
        "end_loss": float(end_loss),
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
        return cls(shift, centre, max(float(logged.std()), mad, 1e-3))

    def surprise(self, value: float) -> float:
        """Return -log P(a normal session reaches `value`), in nats, from the modelled tail."""
        z = (float(np.log1p(max(value - self.shift, 0.0))) - self.centre) / self.spread
        return -float(norm.logsf(z))


def fit_scales(statistics: Sequence[Mapping[str, float]]) -> dict[str, Scale]:
    """Fit a scale to each statistic of normal sessions that the combination uses."""
    return {name: Scale.fit(np.array([each[name] for each in statistics])) for name in COMBINED_OF}


def combine(statistics: Mapping[str, float], scales: Mapping[str, Scale]) -> float:
    """Return the combined score: the sum of the surprises of its statistics, in nats."""
    return sum(scale.surprise(statistics[name]) for name, scale in scales.items())


def scales_to_json(scales: Mapping[str, Scale]) -> dict[str, dict[str, float]]:
    """Return `scales` as JSON-ready values."""
    return {name: asdict(scale) for name, scale in scales.items()}


def scales_from_json(values: Mapping[str, Mapping[str, float]]) -> dict[str, Scale]:
    """Return what `scales_to_json` was given."""
    return {name: Scale(**scale) for name, scale in values.items()}
