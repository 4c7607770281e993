"""Settings of `loggpt-stream route`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from loggpt_stream.lines.decode import known_shape
from loggpt_stream.lines.rules import KEY_SOURCES, SessionRules
from loggpt_stream.logs import LogFormat
from loggpt_stream.settings import KafkaSettings, Settings


def _known_order(order: tuple[str, ...]) -> tuple[str, ...]:
    return SessionRules(key_order=order).key_order


class RouteSettings(Settings):
    """Settings of `loggpt-stream route`."""

    kafka: KafkaSettings = KafkaSettings()
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
    group: str = Field("loggpt-route", description="consumer group; routers of one group share the partitions")
    instance_id: str | None = Field(
        None, description="name of this process in the group, for static membership: a restart is no rebalance (none)"
    )
    session_timeout_s: float = Field(
        30.0, ge=1, description="the group gives a silent process's partitions to others after so many seconds"
    )
    start: Literal["earliest", "latest"] = Field("earliest", description="where a new group begins")
    shape: Annotated[str | None, AfterValidator(known_shape)] = Field(
        None, description="pin the record shape, as the daemon does, instead of recognising each record"
    )
    key_order: Annotated[tuple[str, ...], AfterValidator(_known_order)] = Field(
        KEY_SOURCES,
        description="where a key is looked for, first hit wins: as in the bundle, where that was changed",
    )
    commit_interval_s: float = Field(
        0.5, gt=0, description="seconds between transactions: the latency that routing adds"
    )
    transaction_timeout_s: float = Field(
        15.0, ge=3, description="an unfinished transaction is undone by the broker after so many seconds"
    )
    max_waiting_mb: int = Field(64, gt=0, description="values read and not yet committed, in MB; then reading waits")
    http_host: str = Field("0.0.0.0", description="address of /metrics and /health")  # noqa: S104 - a service's port
    http_port: int = Field(9465, ge=0, le=65535, description="port of /metrics and /health; 0 takes any free one")
    log_format: LogFormat = Field("auto", description="console, json, or auto (console on a terminal)")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe log event shown")

    def topics(self) -> dict[str, str]:
        """Return the topics by what they are for."""
        return {"input topic": self.input_topic, "state topic": self.state_topic, "output topic": self.output_topic}

    def creation(self) -> str:
        """Return "": topics are created by Kafka's own command."""
        return ""
