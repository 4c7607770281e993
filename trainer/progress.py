"""What the trainer says while it works: a live line on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from rich.console import Console

from loggpt_stream.terminal import shown
from trainer.curve import left_s

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.status import Status

    from loggpt_stream.history.files import Reading
    from trainer.curve import EpochLosses

_LIVE_S: Final = 0.2
_PLAIN_S: Final = 5.0


class TrainingProgress:
    """Progress of one run on standard error, from `start` to `stop`; only the first of several processes speaks."""

    def __init__(self, *, speaks: bool = True) -> None:
        self._console = Console(stderr=True, quiet=not speaks, highlight=False, markup=False, soft_wrap=True)
        self._live = self._console.is_terminal
        self._status: Status | None = None
        self._speaks = speaks
        self._next_s = time.monotonic() + _PLAIN_S

    @contextmanager
    def shown(self) -> Iterator[TrainingProgress]:
        """Keep the live line on the terminal for the length of a `with` block."""
        if not (self._live and self._speaks):
            yield self
            return
        with self._console.status("starting") as status:
            self._status = status
            self._next_s = time.monotonic()
            yield self
        self._status = None

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self._console.print(shown(text, keep="\n"))

    def doing(self, text: str) -> None:
        """Show on the live line, if there is one, what takes a while now."""
        if self._status is not None:
            self._status.update(text)

    def due(self) -> bool:
        """Tell whether it is time to show where things are."""
        return self._speaks and time.monotonic() >= self._next_s

    def show(self, text: str) -> None:
        """Show `text` on the live line, or as a plain line where there is none."""
        if self._status is not None:
            self._status.update(text)
        else:
            self.say(text)
        self._next_s = time.monotonic() + (_LIVE_S if self._status is not None else _PLAIN_S)

    def reading(self, reading: Reading) -> None:
        """Show how much is read, if it is time to."""
        if self.due():
            self.show(f"reading: {reading.records:,} records, {reading.bytes / 1e6:,.0f} MB")

    def step(self, epoch: int, share: float, loss: float, tokens_per_s: float, spent_s: float) -> None:
        """Show where training is: share of all steps (or time) done, this epoch's mean loss so far, time spent."""
        self.show(
            f"epoch {epoch}: {share:.0%} of the run, training loss {loss:.3f} nats/token, {tokens_per_s:,.0f} "
            f"tokens/s, at most {duration(left_s(share, spent_s))} left"
        )

    def epoch(self, losses: EpochLosses, *, is_best: bool) -> None:
        """Print what an epoch reached."""
        self.say(
            f"epoch {losses.epoch:3}: training {losses.train_loss:.4f}, validation {losses.validation_loss:.4f} "
            f"nats/token ({losses.validation_line_loss:.3f}/line, {losses.validation_end_loss:.3f}/end), "
            f"{losses.tokens_per_s:,.0f} tokens/s, {losses.seconds:.1f} s{', best so far' if is_best else ''}"
        )


def duration(s: float) -> str:
    """Return seconds as a person says them."""
    minutes, rest = divmod(round(s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
