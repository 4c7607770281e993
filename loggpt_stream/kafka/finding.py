"""What a check found, in the words that daemon and doctor share."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How a check ended. Only a failure keeps the daemon from its work."""

    OK = "ok"
    WARNING = "warn"
    FAILURE = "FAIL"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: how it ended, what was found, and what to do if that is not as it should be."""

    check: str
    level: Level
    found: str
    remedy: str = ""
