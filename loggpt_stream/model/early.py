"""Judging a session while it is open: the statistics that never fall as it grows, and when they pass the threshold.

The early score is the sum of the surprises of `max_line_loss` and `unseen_lines` over the lines so far. A further line
can only raise the maximum and the count, and it changes no loss of the lines before it: windows are causal, blocks
begin afresh at the same lines, and a line never seen is read by itself. A surprise never falls where its statistic
rises. So at any look the early score is at most that of the whole session. If a share of whole normal sessions
scores above a threshold, then at most that share ever passes it, however many looks there are.

That holds as long as lines keep their text. The last line of a traceback changes the text of an earlier line, so a look
leaves a line out until its traceback can have come.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from loggpt_stream.model.line_frequencies import EMPTY
from loggpt_stream.model.sequence import apart, line_windows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loggpt_stream.model.calibration import EarlyCalibration
    from loggpt_stream.model.line_frequencies import LineFrequencies
    from loggpt_stream.model.scoring import Scorer
    from loggpt_stream.model.sequence import Window


@dataclass(frozen=True, slots=True)
class EarlyProgress:
    """The early statistics of the first `lines` lines of a session, and what reading on needs.

    max_line_loss: in nats. unseen: the distinct lines that no training session has. block: the lines of the last block,
    as long as it is not full.
    """

    lines: int = 0
    max_line_loss: float = 0.0
    unseen: frozenset[str] = frozenset()
    block: tuple[str, ...] = ()

    @property
    def statistics(self) -> dict[str, float]:
        """Return the statistics of the lines so far, by name."""
        return {"max_line_loss": self.max_line_loss, "unseen_lines": float(len(self.unseen))}


START = EarlyProgress()


@dataclass(frozen=True, slots=True)
class Step:
    """Some further lines of a session: the windows that the model has to read for them, and what comes `after` it.

    `after` still has the `max_line_loss` of before; `taken` gives what the model says of it.
    """

    windows: list[Window]
    after: EarlyProgress

    @property
    def tokens(self) -> int:
        """Return how many tokens the model reads for it."""
        return sum(len(window.ids_T) for window in self.windows)

    def taken(self, scorer: Scorer) -> EarlyProgress:
        """Return the progress after these lines; on the scorer's thread. Raises as `Scorer.score` does."""
        highest = max(self.after.max_line_loss, scorer.highest_line_loss(self.windows))
        return EarlyProgress(self.after.lines, highest, self.after.unseen, self.after.block)


def step(scorer: Scorer, kind: str, before: EarlyProgress, texts: Sequence[str]) -> Step:
    """Return the step from `before` over `texts`, the masked lines of the session that come next.

    Only the last block is read again, if it was not full: however long a session is, its next line costs the same.
    """
    frequencies = scorer.line_frequencies.get(kind, EMPTY)
    passes = scorer.passes
    lines = [*before.block, *texts]
    cut = line_windows(kind, lines, scorer.tokenizer, scorer.context_tokens, passes=passes, frequencies=frequencies)
    known, _ = apart(lines, passes, frequencies)
    full = len(known) - len(known) % passes.block_lines
    unseen = before.unseen.union(text for text in texts if text not in frequencies)
    block = tuple(lines[index] for index in known[full:])
    return Step(cut, EarlyProgress(before.lines + len(texts), before.max_line_loss, unseen, block))


def new_unseen(texts: Sequence[str], frequencies: LineFrequencies) -> np.ndarray:
    """Return, for each line, whether it is the first of its text and no training session has it (bool, shape L)."""
    seen: set[str] = set()
    found = np.zeros(len(texts), dtype=bool)
    for index, text in enumerate(texts):
        found[index] = text not in frequencies and text not in seen
        seen.add(text)
    return found


def first_alarm(line_losses_L: np.ndarray, new_unseen_L: np.ndarray, early: EarlyCalibration) -> int | None:
    """Return the index of the line with which a session's early score passes the threshold; None where it never does.

    line_losses_L: of the finished session, in nats. new_unseen_L: as by `new_unseen`. Tells how long before its close a
    session could have been announced.
    """
    highest_L = np.maximum.accumulate(line_losses_L)
    unseen_L = np.cumsum(new_unseen_L)

    def score(index: int) -> float:
        return early.score({"max_line_loss": float(highest_L[index]), "unseen_lines": float(unseen_L[index])})

    index = bisect_right(range(len(line_losses_L)), early.threshold, key=score)  # the score never falls
    return index if index < len(line_losses_L) else None
