"""The chance of the fault cases: a number for each, so that a case that fails can be run again as it was."""

from __future__ import annotations

import random

_SEED = 20_261_126


def chance(case: int) -> random.Random:
    return random.Random(_SEED + case)
