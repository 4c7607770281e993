"""`loggpt-stream simulate`: make load."""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from loggpt_stream.errors import UserError
from loggpt_stream.kafka.settings import KafkaSettings
from loggpt_stream.settings import Settings, load
from loggpt_stream.simulator.library import SPLITS, Library, load_library
from loggpt_stream.simulator.load import Load, Plan, natural_concurrency
from loggpt_stream.simulator.outputs import SendProgress, TruthFile, write_stream, write_topic
from loggpt_stream.simulator.shippers import SHIPPERS, known_shipper

if TYPE_CHECKING:
    from collections.abc import Sequence

_DESCRIPTION: Final = """\
Make any amount of load: recorded OpenStack sessions, replayed with fresh ids, hosts and times.

  loggpt-stream simulate --sessions 500 --output load.log                  as text, with load.log.truth.csv beside it
  loggpt-stream simulate --rate 200 --duration-s 3600 --output kafka:openstack-logs --kafka.bootstrap broker:9092
  loggpt-stream simulate --format oslo_json --failure-share 0.02 --lines 1000000 --output - | zstd > load.jsonl.zst

What is replayed is the two recordings of a real Nova that ship with the package, 194 of their 1,150 instances failed.
Order and gaps inside a session stay; sessions overlap as --concurrency says. The same --seed and a fixed --start
give the same bytes. No session starts once a limit is reached; those that have started run to their end."""

_KAFKA: Final = "kafka:"
_DEFAULT_CONCURRENCY: Final = 100
_DEFAULT_SESSIONS: Final = 100


class SimulateSettings(Settings):
    """Settings of `loggpt-stream simulate`."""

    output: str = Field("-", description="a file, - for standard output, or kafka:TOPIC")
    truth: Path | None = Field(None, description="CSV of what happened to each instance (beside an output file)")
    kafka: KafkaSettings = KafkaSettings()
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
        if self.output == _KAFKA:
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
        if self.truth is not None or self.output == "-" or self.output.startswith(_KAFKA):
            return self.truth
        return Path(f"{self.output}.truth.csv")


def main(argv: Sequence[str]) -> int:
    """Make load; return the exit code."""
    settings = load(SimulateSettings, argv, prog="loggpt-stream simulate", description=_DESCRIPTION)
    library = load_library(settings.splits)
    # Nothing of the library ever goes: without it the collector has next to nothing to look at.
    gc.freeze()
    records = Load(library, settings.format, plan(settings, library))
    progress = SendProgress(settings.rate)
    with ExitStack() as stack:
        truth_path = settings.truth_path()
        try:
            truths = TruthFile(stack.enter_context(truth_path.open("w", newline="")) if truth_path else None)
            if settings.output.startswith(_KAFKA):
                asyncio.run(_to_topic(records, settings, truths, progress))
            elif settings.output == "-":
                write_stream(records, sys.stdout.buffer, truths, progress)
            else:
                write_stream(records, stack.enter_context(Path(settings.output).open("wb")), truths, progress)
        except OSError as error:
            raise UserError(f"output {settings.output}: {error}") from error
    progress.tell(done=True)
    return 0


def plan(settings: SimulateSettings, library: Library) -> Plan:
    """Return what the settings ask for."""
    sessions = settings.sessions
    if sessions is None and settings.lines is None and settings.duration_s is None:
        sessions = _DEFAULT_SESSIONS
    concurrency = settings.concurrency
    if concurrency is None:
        rate, scale = settings.rate, settings.time_scale
        concurrency = natural_concurrency(library, rate, scale) if rate else _DEFAULT_CONCURRENCY
    return Plan(
        start_ms=settings.start_ms(),
        seed=settings.seed,
        concurrency=concurrency,
        failure_share=settings.failure_share,
        time_scale=settings.time_scale,
        background=settings.background,
        sessions=sessions,
        lines=settings.lines,
        duration_ms=round(settings.duration_s * 1000) if settings.duration_s else None,
    )


async def _to_topic(records: Load, settings: SimulateSettings, truths: TruthFile, progress: SendProgress) -> None:
    await write_topic(
        records,
        settings.output.removeprefix(_KAFKA),
        settings.kafka,
        truths,
        progress,
        keyed=not settings.unkeyed,
        acks=settings.acks,
        compression=None if settings.compression == "none" else settings.compression,
    )
