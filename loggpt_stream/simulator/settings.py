"""Settings of `loggpt-stream simulate`."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from loggpt_stream.kafka.settings import ConnectionSettings
from loggpt_stream.simulator.shippers import SHIPPERS, known_shipper
from loggpt_stream.simulator.splits import SPLITS

TO_KAFKA: Final = "kafka:"


class SimulateSettings(ConnectionSettings):
    """Settings of `loggpt-stream simulate`."""

    output: str = Field("-", description="a file, - for standard output, or kafka:TOPIC")
    truth: Path | None = Field(None, description="CSV of what happened to each instance (beside an output file)")
    unkeyed: bool = Field(default=False, description="send without keys; else the instance is the key")
    acks: Literal["0", "1", "all"] = Field("all", description="who must have a record before it counts as sent")
    compression: Literal["none", "gzip", "lz4", "zstd"] = Field("zstd", description="of what goes to Kafka")

    format: Annotated[str, AfterValidator(known_shipper)] = Field(
        "plain", description=f"which shipper the lines look like: {', '.join(SHIPPERS)}"
    )
    rate: float = Field(0.0, ge=0, description="lines a second; 0 for as many as possible")
    concurrency: int | None = Field(
        None, gt=0, description="sessions open at once (as many as log --rate lines a second in real time; else 100)"
    )
    sessions: int | None = Field(None, gt=0, description="start so many sessions (100 where no other limit is given)")
    lines: int | None = Field(None, gt=0, description="start sessions until they have so many lines")
    duration_s: float | None = Field(None, gt=0, description="start sessions for so many seconds of log time")
    failure_share: float | None = Field(None, ge=0, le=1, description="share of failed sessions (as recorded: 0.17)")
    time_scale: float = Field(1.0, gt=0, description="gaps between the lines of a session are so many times as long")
    background: bool = Field(default=True, description="lines that belong to no instance too")
    splits: tuple[str, ...] = Field(SPLITS, description="replay only these parts of the recordings")
    start: str = Field("now", description="time of the first line: now, or an ISO time (UTC if no zone)")
    seed: int = Field(0, description="same seed and start: same bytes")

    @field_validator("splits")
    @classmethod
    def _known(cls, splits: tuple[str, ...]) -> tuple[str, ...]:
        if not splits or set(splits) - set(SPLITS):
            raise ValueError(f"choose from {', '.join(SPLITS)}")
        return splits

    @field_validator("start")
    @classmethod
    def _is_time(cls, start: str) -> str:
        if start != "now":
            datetime.fromisoformat(start)
        return start

    @model_validator(mode="after")
    def _named(self) -> Self:
        if self.output == TO_KAFKA:
            raise ValueError("output kafka: names no topic: give kafka:TOPIC")
        return self

    def start_ms(self) -> int:
        """Return when the first session may start, in epoch milliseconds."""
        if self.start == "now":
            return time.time_ns() // 1_000_000
        at = datetime.fromisoformat(self.start)
        return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)

    def truth_path(self) -> Path | None:
        """Return where the truth goes, if anywhere."""
        if self.truth is not None or self.output == "-" or self.output.startswith(TO_KAFKA):
            return self.truth
        return Path(f"{self.output}.truth.csv")
