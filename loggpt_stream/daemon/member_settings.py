"""Settings that every member of a consumer group has: the daemon, its doctor, and the router."""

from __future__ import annotations

from abc import abstractmethod
from itertools import combinations
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from loggpt_stream.lines.decode import known_shape
from loggpt_stream.logs import LogFormat
from loggpt_stream.settings import ENV_PREFIX, KafkaSettings, Settings


class MemberSettings(Settings):
    """A process that reads a topic as one of a group, and keeps in another topic how far it is and what is open."""

    kafka: KafkaSettings = KafkaSettings()
    input_topic: str
    state_topic: str
    group: str
    instance_id: str | None = Field(
        None, description="name of this process in the group, for static membership: a restart is no rebalance (none)"
    )
    session_timeout_s: float = Field(
        30.0, ge=1, description="the group gives a silent process's partitions to others after so many seconds"
    )
    start: Literal["earliest", "latest"] = Field("earliest", description="where a new group begins")
    shape: Annotated[str | None, AfterValidator(known_shape)] = Field(
        None, description="pin the record shape instead of recognising each record"
    )
    commit_interval_s: float
    transaction_timeout_s: float = Field(
        15.0, ge=3, description="an unfinished transaction is undone by the broker after so many seconds"
    )
    http_host: str = Field("0.0.0.0", description="address of /metrics and /health")  # noqa: S104 - a service's port
    log_format: LogFormat = Field("auto", description="console, json, or auto (console on a terminal)")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe log event shown")

    @model_validator(mode="after")
    def _a_topic_for_each_purpose(self) -> Self:
        for (role, topic), (other_role, other_topic) in combinations(self.topics().items(), 2):
            if topic == other_topic:
                # What is written to the input would be read, and written, without end.
                one, other = role.replace(" ", "_"), other_role.replace(" ", "_")
                raise ValueError(
                    f"{one} and {other} are both {topic}: give each a topic of its own, such as by "
                    f"--{other.replace('_', '-')} or {ENV_PREFIX}{other.upper()}"
                )
        return self

    @abstractmethod
    def topics(self) -> dict[str, str]:
        """Return the topics by what they are for: the name of the setting, with blanks."""

    @abstractmethod
    def creation(self, role: str) -> str:
        """Return the command of ours that creates the missing topic of a role, as `topics` names it."""
