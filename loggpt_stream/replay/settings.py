"""Settings of `loggpt-stream replay`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_settings import CliPositionalArg

from loggpt_stream.lines.shapes import known_shape
from loggpt_stream.model.drift_mode import DriftMode
from loggpt_stream.settings import Settings


class ReplaySettings(Settings):
    """Settings of `loggpt-stream replay`."""

    inputs: CliPositionalArg[list[str]] = Field([], description="log files, directories of them, or - for stdin")
    bundle: Path = Field(Path("bundle"), description="calibrated bundle: a directory made by loggpt-calibrate")
    out: Path | None = Field(None, description="file for the alerts, one JSON object a line (standard output)")
    scores: Path | None = Field(None, description="file for the score of every session, one JSON object a line (none)")
    input_topic: str = Field("openstack-logs", description="topic name that goes into the alerts and their ids")
    shape: Annotated[str | None, AfterValidator(known_shape)] = Field(
        None, description="read every record as this shape, and refuse others (each is recognised)"
    )
    cluster: str = Field("openstack", description="name of this cloud, in the alerts")
    device: str = Field("auto", description="auto (CUDA if there is one, else CPU), cpu, cuda or cuda:N")
    batch_tokens: int = Field(8192, ge=64, description="most tokens of a scoring batch")
    early: bool = Field(False, description="write early alerts too, each before the final one of its session")  # noqa: FBT003 - a default
    drift: DriftMode = Field(DriftMode.OFF, description="let thresholds follow drift, as the daemon may: adapt; or off")
