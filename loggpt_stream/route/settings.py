"""Settings of the router, and of its command."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from loggpt_stream.kafka.settings import MemberSettings
from loggpt_stream.lines.rules import KEY_SOURCES, SessionRules
from loggpt_stream.lines.shapes import known_shape


def _known_order(order: tuple[str, ...]) -> tuple[str, ...]:
    return SessionRules(key_order=order).key_order


class RouteSettings(MemberSettings):
    """Settings of the router."""

    input_topic: str = Field(
        "openstack-logs-raw", description="topic with raw log records that are not keyed by session"
    )
    output_topic: str = Field(
        "openstack-logs", description="topic for the same records keyed by session: the daemon's input"
    )
    state_topic: str = Field(
        "loggpt-route-state",
        description="compacted topic for where it stands, with as many partitions as the input",
    )
    shape: Annotated[str | None, AfterValidator(known_shape)] = Field(
        None, description="read every record as this shape, and refuse others (each is recognised)"
    )
    group: str = Field("loggpt-route", description="consumer group; routers of one group share the partitions")
    key_order: Annotated[tuple[str, ...], AfterValidator(_known_order)] = Field(
        KEY_SOURCES,
        description="where a key is looked for, first hit wins: as in the bundle, where that was changed",
    )
    commit_interval_s: float = Field(
        0.5, gt=0, description="seconds between transactions: the latency that routing adds"
    )
    max_waiting_mb: int = Field(64, gt=0, description="values read and not yet committed, in MB; then reading waits")
    http_port: int = Field(9465, ge=0, le=65535, description="port of /metrics and /health; 0 takes any free one")

    def topics(self) -> dict[str, str]:
        """Return the topics by what they are for."""
        return {"input topic": self.input_topic, "state topic": self.state_topic, "output topic": self.output_topic}

    def creation(self, role: str) -> str:
        """Return the command of ours that creates a missing topic."""
        return "loggpt-stream route --create-topics" + " --partitions N" * (role == "output topic")


class RouteCommand(RouteSettings):
    """Settings of `loggpt-stream route`: the router's, and what to create."""

    create_topics: bool = Field(default=False, description="create the topics that are missing, and end")
    partitions: int = Field(4, gt=0, description="of a missing output topic, with --create-topics")
