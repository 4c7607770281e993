"""Settings of `loggpt-stream dead-letters`."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from loggpt_stream.daemon.settings import DeadLetterSettings, InputSettings
from loggpt_stream.dead_letters.reasons import REASONS
from loggpt_stream.dead_letters.selection import Selection


def _known_reason(name: str) -> str:
    if name not in REASONS:
        raise ValueError(f"no such reason; there are {', '.join(REASONS)}")
    return name


class PickSettings(DeadLetterSettings):
    """Settings of every action: where the dead letters are, and which of them."""

    reason: list[Annotated[str, AfterValidator(_known_reason)]] = Field([], description="only of these reasons")
    partition: int | None = Field(None, ge=0, description="only of this partition of the dead letter topic")
    from_offset: int | None = Field(None, ge=0, description="with --partition: from this offset on")
    to_offset: int | None = Field(None, ge=0, description="with --partition: up to this offset, and with it")

    @model_validator(mode="after")
    def _offsets_of_one_partition(self) -> Self:
        if self.partition is None and (self.from_offset, self.to_offset) != (None, None):
            raise ValueError("from_offset and to_offset need a partition: give --partition too")
        return self

    @property
    def selection(self) -> Selection:
        """Return which dead letters are meant."""
        return Selection(frozenset(self.reason), self.partition, self.from_offset, self.to_offset)


class ListSettings(PickSettings):
    """Settings of `loggpt-stream dead-letters list`."""

    limit: int = Field(50, gt=0, description="show the newest so many")


class ReinjectSettings(PickSettings, InputSettings):
    """Settings of `loggpt-stream dead-letters reinject`."""

    dry_run: bool = Field(default=False, description="write nothing, say what would be put back")
    again: bool = Field(default=False, description="those too that were put back before and failed again")
