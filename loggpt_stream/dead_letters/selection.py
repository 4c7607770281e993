"""Which dead letters are meant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loggpt_stream.dead_letters.letters import Letter


@dataclass(frozen=True, slots=True)
class Selection:
    """Which dead letters: of these reasons (none: any), this partition, from one offset up to and with another."""

    reasons: frozenset[str] = frozenset()
    partition: int | None = None
    from_offset: int | None = None
    to_offset: int | None = None

    def takes(self, letter: Letter) -> bool:
        """Tell whether a dead letter is among those selected."""
        return (
            (not self.reasons or letter.reason in self.reasons)
            and self.partition in (None, letter.partition)
            and (self.from_offset is None or letter.offset >= self.from_offset)
            and (self.to_offset is None or letter.offset <= self.to_offset)
        )
