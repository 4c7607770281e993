"""Settings of `loggpt-calibrate`, its `evaluate` and its `diagnose`."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal, Self

from pydantic import Field, model_validator

from loggpt_stream.history.settings import SourceSettings

DEFAULT_FALSE_ALARM_RATE: Final = 0.01
CONTAMINATION: Final = 0.1

Kind = Literal["explicit", "instance", "request", "window"]


class ScoringSettings(SourceSettings):
    """What all commands need."""

    bundle: Path = Field(Path("bundle"), description="directory of the bundle, made by loggpt-train")
    report: Path | None = Field(None, description="directory of the report (beside the bundle)")
    labels: Path | None = Field(None, description="CSV whose first column is the session key or group")
    anomaly_column: str = Field(
        "failed", description="label column that is 1 for anomalous sessions and 0 for normal ones"
    )
    select: dict[str, str] = Field({}, description="take only sessions with these labels: COLUMN=VALUE")
    kinds: list[Kind] = Field([], description="take only sessions of these kinds (all)")
    device: str = Field("auto", description="auto (CUDA if there is one, else CPU), cpu, cuda or cuda:N")
    threads: int | None = Field(None, gt=0, description="CPU threads (torch decides: one a core)")
    batch_tokens: int = Field(8192, ge=64, description="most tokens of a scoring batch")

    @model_validator(mode="after")
    def _labelled(self) -> Self:
        if self.select and self.labels is None:
            raise ValueError("select names columns of a label file: give labels too")
        return self


class CalibrateSettings(ScoringSettings):
    """Settings of `loggpt-calibrate`."""

    out: Path | None = Field(None, description="directory of the calibrated bundle (the bundle itself)")
    held_out: bool = Field(False, description="take exactly the sessions that the trainer held out of the same logs")  # noqa: FBT003 - a default
    false_alarm_rate: float | None = Field(
        None,
        gt=0,
        lt=1,
        description=f"without labels: share of normal sessions that may alarm ({DEFAULT_FALSE_ALARM_RATE:g})",
    )
    alerts_per_day: float | None = Field(
        None, gt=0, description="without labels: false alarms a day that are tolerated, at the traffic of this input"
    )
    contamination: float = Field(
        CONTAMINATION, ge=0, lt=0.3, description="without labels: up to this share of the sessions may be failures"
    )
    cost_miss: float | None = Field(
        None, ge=0, description="with labels: cost of a missed anomaly; lowest cost, not F1"
    )
    cost_false_alarm: float | None = Field(
        None, ge=0, description="with labels: cost of a false alarm (1 beside cost-miss)"
    )
    early_false_alarm_rate: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="share of normal sessions that may alarm while they are open "
        f"(with labels {DEFAULT_FALSE_ALARM_RATE:g}, or the finest that they allow; without, false-alarm-rate)",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.labels is None and not (self.cost_miss is None and self.cost_false_alarm is None):
            raise ValueError("cost_miss and cost_false_alarm weigh labelled sessions: give labels too")
        if self.alerts_per_day is not None and self.false_alarm_rate is not None:
            raise ValueError("false_alarm_rate and alerts_per_day say the same in two ways: give one of them")
        if self.cost_miss == 0 and self.cost_false_alarm == 0:
            raise ValueError("cost_miss and cost_false_alarm: one of them must be greater than 0")
        if self.report_directory.is_relative_to(self.destination):
            raise ValueError(f"report {self.report_directory}: must not be inside the bundle, which is sealed")
        return self

    @property
    def destination(self) -> Path:
        """Return where the calibrated bundle goes."""
        return (self.out or self.bundle).absolute()

    @property
    def report_directory(self) -> Path:
        """Return where the report goes."""
        return (self.report or self.destination.with_name(self.destination.name + "-calibration")).absolute()


class DiagnoseSettings(ScoringSettings):
    """Settings of `loggpt-calibrate diagnose`."""

    held_out: bool = Field(False, description="take exactly the sessions that the trainer held out of the same logs")  # noqa: FBT003 - a default
    group_column: str | None = Field(None, description="label column of what belongs together")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.group_column and self.labels is None:
            raise ValueError("group_column names a column of a label file: give labels too")
        return self

    @property
    def report_directory(self) -> Path:
        """Return where the report goes."""
        bundle = self.bundle.absolute()
        return (self.report or bundle.with_name(bundle.name + "-diagnosis")).absolute()


class EvaluateSettings(ScoringSettings):
    """Settings of `loggpt-calibrate evaluate`."""

    labels: Path = Field(description="CSV whose first column is the session key or group")
    group_column: str | None = Field(None, description="label column of what belongs together, for the intervals")
    seed: int = Field(42, ge=0, description="of the resamples behind the intervals")

    @property
    def report_directory(self) -> Path:
        """Return where the report goes."""
        bundle = self.bundle.absolute()
        return (self.report or bundle.with_name(bundle.name + "-evaluation")).absolute()
