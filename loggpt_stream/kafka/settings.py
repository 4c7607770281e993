"""Where Kafka is and how to log in, and the settings of every member of a consumer group."""

from __future__ import annotations

from abc import abstractmethod
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, SecretStr, model_validator

from loggpt_stream.errors import UserError
from loggpt_stream.kafka.changelog import STATE_FORMAT
from loggpt_stream.settings import ENV_NESTED, ENV_PREFIX, Section, Settings
from loggpt_stream.terminal import LogFormat

if TYPE_CHECKING:
    from types import ModuleType


class KafkaSettings(Section):
    """Where Kafka is and how to log in."""

    bootstrap: str = Field("localhost:9092", description="Kafka bootstrap servers, host:port[,host:port]")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL"
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = Field(
        "SCRAM-SHA-512", description="SASL mechanism, where the protocol is SASL_*"
    )
    username: str | None = Field(None, description="SASL user name")
    password: SecretStr | None = Field(None, description="SASL password; better from the environment than from a file")
    password_file: Path | None = Field(
        None, description="file with the SASL password and nothing else, read again for every connection"
    )
    token_file: Path | None = Field(
        None, description="file with the OAUTHBEARER token, read again for every connection"
    )
    token_command: SecretStr | None = Field(
        None, description="program that prints the OAUTHBEARER token, run without a shell for every connection"
    )
    ca_file: Path | None = Field(
        None, description="PEM file of the certificate authority, where the protocol is *SSL (the system's)"
    )
    certificate_file: Path | None = Field(None, description="PEM file of our own certificate, for mutual TLS")
    key_file: Path | None = Field(None, description="PEM file of its private key (the certificate's file)")

    @model_validator(mode="after")
    def _can_log_in(self) -> Self:
        if self.security_protocol.startswith("SASL"):
            token = self.sasl_mechanism == "OAUTHBEARER"
            self._one_of("token_file", "token_command", wanted=token)
            self._one_of("password", "password_file", wanted=not token, also=() if token else ("username",))
            if self.token_command:
                _login().TokenCommand(self.token_command.get_secret_value())
        for name in ("ca_file", "certificate_file", "key_file"):
            if getattr(self, name) and not self.security_protocol.endswith("SSL"):
                raise ValueError(
                    f"{name} is set, but {self.security_protocol} does not encrypt: set "
                    f"{_variable('security_protocol')} to SSL or SASL_SSL, or leave {name} out"
                )
        if self.key_file and not self.certificate_file:
            raise ValueError(f"key_file is set without its certificate: set {_variable('certificate_file')}")
        return self

    def _one_of(self, first: str, second: str, *, wanted: bool, also: tuple[str, ...] = ()) -> None:
        """Raise `ValueError` unless exactly one of two ways to log in is set (or none, where it is not `wanted`)."""
        found = [name for name in (first, second) if getattr(self, name)]
        if found and not wanted:
            raise ValueError(
                f"{found[0]} is not for {self.sasl_mechanism}: leave it out, or set another sasl_mechanism"
            )
        if len(found) > 1:
            raise ValueError(f"{first} and {second} are both set: leave one of them out")
        missing = [name for name in also if not getattr(self, name)]
        missing += [first] if wanted and not found else []
        if missing:
            raise ValueError(
                f"{self.security_protocol} needs {' and '.join(missing)}: set "
                + " and ".join(_variable(name) for name in missing)
                + (f" (or {_variable(second)})" if first in missing else "")
            )

    def client_options(self) -> dict[str, Any]:
        """Return the arguments that every aiokafka client takes.

        What files hold is read again by each connection that a client makes later. Raises `UserError` for a file that
        cannot be used now.
        """
        login = _login()
        options: dict[str, Any] = {
            "bootstrap_servers": self.bootstrap,
            "security_protocol": self.security_protocol,
            "client_id": "loggpt-stream",
        }
        if self.security_protocol.startswith("SASL"):
            options["sasl_mechanism"] = self.sasl_mechanism
            try:
                options |= self._login_options()
            except login.LoginError as error:
                raise UserError(str(error)) from None
        if self.security_protocol.endswith("SSL"):
            certificates = login.Certificates(self.ca_file, self.certificate_file, self.key_file)
            options["ssl_context"] = certificates.context()
        return options

    def options_of_another(self) -> dict[str, Any]:
        """Return the arguments of one more client of a process that runs already.

        Raises `LoginError`, which is to be tried again, for a file that cannot be used now: it may be being replaced.
        """
        try:
            return self.client_options()
        except UserError as error:
            raise _login().LoginError(str(error)) from None

    def _login_options(self) -> dict[str, Any]:
        login = _login()
        login.install()
        if self.token_file:
            login.SecretFile("kafka.token_file", self.token_file).read()
            return {"sasl_oauth_token_provider": login.TokenFile(self.token_file)}
        if self.token_command:
            return {"sasl_oauth_token_provider": login.TokenCommand(self.token_command.get_secret_value())}
        password: Any = self.password.get_secret_value() if self.password else None
        if self.password_file:
            password = login.SecretFile("kafka.password_file", self.password_file)
            password.read()
        return {"sasl_plain_username": self.username, "sasl_plain_password": password}


def _login() -> ModuleType:
    """Return the module that logs in. It loads aiokafka, and settings are read and checked without that."""
    from loggpt_stream.kafka import login  # noqa: PLC0415 - see above

    return login


def _variable(name: str) -> str:
    return f"{ENV_PREFIX}KAFKA{ENV_NESTED}{name.upper()}"


class ConnectionSettings(Settings):
    """Settings of a command that talks to Kafka."""

    kafka: KafkaSettings = KafkaSettings()


class PlacementSettings(ConnectionSettings):
    """What a member of a group finds around it: Kafka, its topics, the group, and the port that it serves."""

    input_topic: str
    state_topic: str
    group: str
    start: Literal["earliest", "latest"] = Field("earliest", description="where a new group begins")
    http_host: str = Field("0.0.0.0", description="address of /metrics and /health")  # noqa: S104 - a service's port

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


class MemberSettings(PlacementSettings):
    """A process that reads a topic as one of a group, and keeps in another topic how far it is and what is open."""

    instance_id: str | None = Field(
        None,
        description="name of this process in the group, for static membership: a restart causes no rebalance (none)",
    )
    session_timeout_s: float = Field(
        30.0, ge=1, description="seconds of silence after which the group gives a process's partitions to others"
    )
    commit_interval_s: float
    transaction_timeout_s: float = Field(
        15.0, ge=3, description="seconds after which the broker undoes an unfinished transaction"
    )
    state_format: int | None = Field(
        None,
        ge=1,
        le=STATE_FORMAT,
        description="format of the state that is written: set 1 before you go back to version 0.1.0 (the newest that "
        "every member of the group reads)",
    )
    log_format: LogFormat = Field("auto", description="console, json, or auto (console on a terminal)")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe log event shown")
