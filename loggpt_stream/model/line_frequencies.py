"""What training sessions consist of, line by line: the statistics that need no language model.

`LineFrequencies` knows, for one session kind, how many training sessions hold each masked line (its document frequency)
and when in a session it first comes. It says what a session lacks, what it has that no training session had, and which
of its lines came later than usual.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from statistics import median, pstdev
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from loggpt_stream.lines.session import Session

# Fewer sessions say nothing about when a line comes.
_MIN_TIMED: Final = 5
# On the scale log1p(seconds): on a busy host all takes twice as long, which is one standard deviation at least.
_MIN_SPREAD: Final = 0.7


@dataclass(frozen=True, slots=True)
class KnownLine:
    """One masked line of the training sessions.

    sessions: how many of them hold it. first_s: median of its first coming, in seconds after the session's first line;
    spread: standard deviation of log1p(seconds) of that. Both None where too few sessions hold it.
    """

    sessions: int
    first_s: float | None
    spread: float | None


@dataclass(frozen=True, slots=True)
class LineFrequencies:
    """The masked lines of one session kind's training sessions, and how many `sessions` there were."""

    sessions: int
    lines: dict[str, KnownLine]
    _absence: dict[str, float] = field(init=False, repr=False, compare=False)
    _all_absent: float = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Prepare what the absence of each line costs."""
        absence = {text: self._cost(known.sessions) for text, known in self.lines.items()}
        object.__setattr__(self, "_absence", absence)
        object.__setattr__(self, "_all_absent", math.fsum(absence.values()))

    @classmethod
    def of(cls, sessions: Sequence[Session]) -> LineFrequencies:
        """Count the lines of training sessions of one kind."""
        firsts: defaultdict[str, list[float]] = defaultdict(list)
        for session in sessions:
            for text, _, after_s in _first_comings(session.texts, session.times_s):
                firsts[text].append(after_s)
        lines = {}
        for text in sorted(firsts, key=lambda text: (-len(firsts[text]), text)):
            after = firsts[text]
            timed = len(after) >= _MIN_TIMED
            spread = max(pstdev(map(math.log1p, after)), _MIN_SPREAD) if timed else None
            lines[text] = KnownLine(len(after), median(after) if timed else None, spread)
        return cls(len(sessions), lines)

    def __contains__(self, text: str) -> bool:
        """Tell whether a training session holds this masked line."""
        return text in self.lines

    def frequency(self, text: str) -> int:
        """Return how many training sessions hold this masked line."""
        known = self.lines.get(text)
        return known.sessions if known else 0

    def line_set(self, texts: Iterable[str]) -> list[str]:
        """Return the distinct lines, those that most training sessions hold first, lines never seen last."""
        return sorted(set(texts), key=lambda text: (-self.frequency(text), text))

    def absence(self, texts: Iterable[str]) -> float:
        """Return how surprising it is, in nats, that a session of these lines lacks all other known lines.

        The sum of -log P(absent) over the lines that are not there, each taken by itself, with Laplace's estimate
        (N - n + 1) / (N + 2) for a line that n of N sessions hold.
        """
        present = math.fsum(self._absence.get(text, 0.0) for text in set(texts))
        return max(0.0, self._all_absent - present)

    def absent(self, texts: Iterable[str], *, at_least: float = 0.5) -> Iterator[tuple[str, float]]:
        """Yield the lines that are not there but are in the share `at_least` of the training sessions, and their share.

        In order of that share, highest first.
        """
        there = set(texts)
        for text, known in self.lines.items():
            share = known.sessions / self.sessions
            if share < at_least:
                return  # the most frequent lines come first
            if text not in there:
                yield text, share

    def untimely(self, texts: Sequence[str], times_s: Sequence[float]) -> tuple[float, int | None]:
        """Return how much later than usual a line first came, in standard deviations, and the index of that line.

        On the scale log1p(seconds after the first line of the session); (0, None) where none came later. It shows steps
        that hang.
        """
        worst, at = 0.0, None
        for text, index, after_s in _first_comings(texts, times_s):
            known = self.lines.get(text)
            if known and known.first_s is not None and known.spread:
                z = (math.log1p(after_s) - math.log1p(known.first_s)) / known.spread
                if z > worst:
                    worst, at = z, index
        return worst, at

    def to_json(self) -> dict[str, Any]:
        """Return this as JSON-ready values."""
        lines = {text: [known.sessions, known.first_s, known.spread] for text, known in self.lines.items()}
        return {"sessions": self.sessions, "lines": lines}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> LineFrequencies:
        """Return what `to_json` gave. Raises `KeyError` or `TypeError` where something is missing or odd."""
        return cls(values["sessions"], {text: KnownLine(*known) for text, known in values["lines"].items()})

    def _cost(self, sessions: int) -> float:
        return -math.log((self.sessions - sessions + 1) / (self.sessions + 2))


EMPTY: Final = LineFrequencies(0, {})


def _first_comings(texts: Sequence[str], times_s: Sequence[float]) -> Iterator[tuple[str, int, float]]:
    """Yield each distinct line with its first index, and the seconds from the first line to it (never negative)."""
    seen: set[str] = set()
    for index, text in enumerate(texts):
        if text not in seen:
            seen.add(text)
            yield text, index, max(0.0, times_s[index] - times_s[0])
