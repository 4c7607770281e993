"""Settings of `loggpt-stream demo`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from loggpt_stream.settings import Settings


class DemoSettings(Settings):
    """Settings of `loggpt-stream demo`."""

    out: Path = Field(Path("demo-output"), description="folder for bundle, plots, alerts and logs")
    speed: float = Field(12.0, gt=0, description="play the recording so many times as fast as it happened")
    max_minutes: float = Field(1.1, gt=0, description="train at most so many minutes")
    quick: bool = Field(default=False, description="a quick look: half a minute of training, a faster replay")
    seed: int = Field(42, description="seed of the training")
