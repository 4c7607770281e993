"""Settings of a command that reads recorded logs: training and calibration name their source alike."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_settings import CliPositionalArg, SettingsConfigDict

from loggpt_stream.errors import UserError
from loggpt_stream.history.files import expand
from loggpt_stream.kafka.settings import ConnectionSettings
from loggpt_stream.lines.shapes import known_shape

if TYPE_CHECKING:
    from pathlib import Path


def _aware(time: datetime) -> datetime:
    return time if time.tzinfo else time.replace(tzinfo=UTC)


Time = Annotated[datetime, AfterValidator(_aware)]


class SourceSettings(ConnectionSettings):
    """Settings of a command that reads recorded logs."""

    # `from` is a word of Python's own: the field has another name, flags and YAML say `from`.
    model_config = SettingsConfigDict(populate_by_name=True, env_prefix_target="all")

    inputs: CliPositionalArg[list[str]] = Field(
        [], description="log files (plain, .gz, .xz, .zst; text or JSON lines), directories of them, or - for stdin"
    )
    topic: str | None = Field(None, description="read this Kafka topic instead of files")
    from_time: Time | None = Field(None, alias="from", description="read the topic from this ISO time on (UTC)")
    to: Time | None = Field(None, description="read the topic up to this ISO time (default: what it holds now)")
    shape: Annotated[str | None, AfterValidator(known_shape)] = Field(
        None, description="read every record as this shape, and refuse others (each is recognised)"
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.topic is None and (self.from_time or self.to):
            raise ValueError("from and to are times of a topic: give topic too")
        if self.topic is None and not self.inputs:
            raise ValueError("nothing to read: name log files, directories or - for stdin, or give topic")
        if self.topic is not None and self.inputs:
            raise ValueError(f"topic {self.topic} and files {', '.join(self.inputs)}: read one or the other")
        if self.from_time and self.to and self.from_time >= self.to:
            raise ValueError(f"from {self.from_time.isoformat()} must be before to {self.to.isoformat()}")
        return self

    def require_files(self, *others: Path | None) -> None:
        """Raise `UserError` for an input, or another file, that is not there: before what takes long to load."""
        for path in others:
            if path is not None and not path.exists():
                raise UserError(f"{path}: no such file.")
        if self.topic is None:
            expand(self.inputs)
