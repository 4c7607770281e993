"""What to do about drift: apart from the monitors, so that settings are read without NumPy."""

from __future__ import annotations

from enum import StrEnum


class DriftMode(StrEnum):
    """What is done about drift: nothing, measuring it, or measuring it and moving the threshold too."""

    OFF = "off"
    WATCH = "watch"
    ADAPT = "adapt"
