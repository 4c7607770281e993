"""Settings of the daemon: placement only. What scoring means comes from the bundle.

They come in the parts that commands beside the daemon need too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from loggpt_stream.kafka.settings import ConnectionSettings, MemberSettings, PlacementSettings
from loggpt_stream.lines.shapes import known_shape
from loggpt_stream.model.drift_mode import DriftMode


class DeadLetterSettings(ConnectionSettings):
    """Where the dead letters are."""

    dead_letter_topic: str = Field("loggpt-dead-letters", description="topic for records that hold no log event")


class InputSettings(DeadLetterSettings):
    """Where the daemon reads, as whom, and where it puts what it cannot read."""

    input_topic: str = Field("openstack-logs", description="topic with raw log records, keyed by session if it can be")
    group: str = Field("loggpt-stream", description="consumer group; daemons of one group share the partitions")


class DaemonPlacement(InputSettings, PlacementSettings):
    """What the daemon finds around it: the bundle, the device, its topics, its group, its port."""

    bundle: Path = Field(Path("bundle"), description="calibrated bundle: a directory made by loggpt-calibrate")
    bundle_key: Path | None = Field(
        None, description="public key (PEM) that the bundle must be signed with; unsigned ones are refused then (off)"
    )
    alert_topic: str = Field("loggpt-alerts", description="topic for alerts")
    state_topic: str = Field(
        "loggpt-state",
        description="compacted topic that keeps open sessions; as many partitions as the input",
    )
    score_topic: str | None = Field(None, description="topic for the score of every session, alert or not (off)")
    shape: Annotated[str | None, AfterValidator(known_shape)] = Field(
        None, description="read every record as this shape, and refuse others (each is recognised)"
    )
    device: str = Field("auto", description="auto (CUDA if there is one, else CPU), cpu, cuda or cuda:N")
    http_port: int = Field(9464, ge=0, le=65535, description="port of /metrics and /health; 0 takes any free one")

    def topics(self) -> dict[str, str]:
        """Return the topics by what they are for; without the score topic, where there is none."""
        named = {
            "input topic": self.input_topic,
            "state topic": self.state_topic,
            "alert topic": self.alert_topic,
            "dead letter topic": self.dead_letter_topic,
            "score topic": self.score_topic,
        }
        return {role: name for role, name in named.items() if name}

    def creation(self, role: str) -> str:
        """Return the command of ours that creates a missing topic."""
        return "loggpt-stream doctor --create-topics" + " --partitions N" * (role == "input topic")


class DaemonSettings(DaemonPlacement, MemberSettings):
    """Settings of `loggpt-stream run`."""

    cluster: str = Field("openstack", description="name of this cloud, in the alerts' ce_source")
    drift: DriftMode = Field(
        DriftMode.ADAPT,
        description="when normal scores rise: adapt the threshold within its bound, watch and say so, or off",
    )
    threads: int | None = Field(None, gt=0, description="CPU threads of the scorer (torch decides)")
    batch_tokens: int = Field(8192, ge=64, description="most tokens of a scoring batch")
    batch_wait_s: float = Field(0.5, ge=0, description="most seconds that a closed session waits for a batch")
    early_every_s: float = Field(
        2.0, ge=0, description="seconds between looks at open sessions, for early alerts; 0 turns early alerts off"
    )
    max_pending_sessions: int = Field(
        5_000, gt=0, description="closed sessions waiting for the scorer; then reading pauses"
    )
    max_open_sessions: int = Field(
        200_000, gt=0, description="open sessions over all partitions; then the quietest closes"
    )
    max_open_lines: int = Field(
        2_000_000, gt=0, description="lines of open sessions over all partitions; then the quietest closes"
    )
    max_open_mb: int = Field(
        2_000, gt=0, description="memory of open sessions over all partitions, in MB; then the quietest closes"
    )
    commit_interval_s: float = Field(2.0, gt=0, description="seconds between transactions; alerts do not wait for it")
    score_timeout_s: float = Field(
        300.0,
        gt=0,
        description="a scoring batch that takes longer ends the process; its supervisor starts it again",
    )
    stuck_after_s: float = Field(
        120.0,
        ge=5,
        description="/health/live fails once a partition with work stands still for so many seconds",
    )
    shutdown_grace_s: float = Field(25.0, gt=0, description="seconds to finish scoring after SIGTERM")
    clock_speed: float = Field(
        1.0,
        gt=0,
        description="factor on wall-clock time where sessions of silent partitions close; for replays only",
    )
