"""What scoring says of one session."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, slots=True)
class SessionScore:
    """What scoring says of one session. Losses are in nats.

    line_losses_L: summed over the tokens of each line. token_losses: per line, one value a token. line_set,
    line_set_losses_D: the session's D distinct lines, the commonest first, and their losses. statistics: by name, see
    `loggpt_stream.model.statistics`. untimely: index of the line behind `untimely_line`, or None.
    """

    line_losses_L: np.ndarray
    token_losses: list[np.ndarray]
    statistics: dict[str, float]
    line_set: list[str] = field(default_factory=list)
    line_set_losses_D: np.ndarray = field(default_factory=lambda: np.empty(0))
    untimely: int | None = None
