"""The parts of the recordings that can be replayed."""

from __future__ import annotations

from typing import Final

SPLITS: Final = ("train", "val", "test", "day2")
