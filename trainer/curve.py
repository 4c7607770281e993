"""The learning curve: what each epoch reached."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class EpochLosses:
    """One epoch, counted from 1.

    train_loss, validation_loss: nats per learned token (lines, separators and ends; with dropout in train).
    *_line_loss: nats per line. validation_end_loss: nats per session. seconds: wall time, validation included.
    tokens_per_s: learned tokens per second of the training pass, over all processes.
    """

    epoch: int
    train_loss: float
    train_line_loss: float
    validation_loss: float
    validation_line_loss: float
    validation_end_loss: float
    seconds: float
    tokens_per_s: float

    def learned(self) -> dict[str, float]:
        """Return what is the same in every run with this seed: all but the times."""
        return {
            "epoch": self.epoch,
            "train_loss": self.train_loss,
            "train_line_loss": self.train_line_loss,
            "validation_loss": self.validation_loss,
            "validation_line_loss": self.validation_line_loss,
            "validation_end_loss": self.validation_end_loss,
        }


def best_epoch(curve: Sequence[EpochLosses]) -> int:
    """Return the number of the (first) epoch with the least validation loss; 0 where there is none."""
    return min(curve, key=lambda losses: losses.validation_loss).epoch if curve else 0


def best_line_loss(curve: Sequence[EpochLosses]) -> float:
    """Return the best epoch's validation loss in nats per line; inf where there is no epoch."""
    return curve[best_epoch(curve) - 1].validation_line_loss if curve else math.inf


def is_over(curve: Sequence[EpochLosses], *, epochs: int, patience: int, max_s: float = math.inf) -> bool:
    """Tell whether training ends here: all epochs done, no better one for `patience` epochs, or no time left."""
    done = len(curve)
    return done >= epochs or done - best_epoch(curve) >= patience or seconds(curve) >= max_s


def seconds(curve: Sequence[EpochLosses]) -> float:
    """Return how long the epochs took, over all runs that made them."""
    return sum(losses.seconds for losses in curve)


def left_s(share: float, spent_s: float) -> float:
    """Return the seconds left where `share` of the run took `spent_s`; early stopping may save some of them."""
    return spent_s * (1 - share) / share if share > 0 else math.inf
