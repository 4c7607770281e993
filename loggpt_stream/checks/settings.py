"""Settings of `loggpt-stream doctor`."""

from __future__ import annotations

from pydantic import Field

from loggpt_stream.daemon.settings import DaemonPlacement


class DoctorSettings(DaemonPlacement):
    """Settings of `loggpt-stream doctor`: where the daemon is placed, and what to create."""

    create_topics: bool = Field(default=False, description="create the topics that are missing, then check")
    partitions: int | None = Field(None, gt=0, description="of a missing input topic, with --create-topics (4)")
