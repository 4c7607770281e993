"""What an error of Kafka, TLS or the network means, in a sentence that names the setting."""

from __future__ import annotations

import re
import ssl
from pathlib import Path

import pytest
from aiokafka import errors as kafka_errors

from loggpt_stream.errors import UserError
from loggpt_stream.kafka.connection import explain, why_not
from loggpt_stream.kafka.login import LoginError
from loggpt_stream.kafka.settings import KafkaSettings


def wrapped(cause: Exception) -> Exception:
    """Return an error as aiokafka wraps what a connection ended with."""
    error: Exception = kafka_errors.KafkaConnectionError("Connection at broker:9092 closed")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (LoginError("kafka.password_file /x: is empty"), r"^kafka\.password_file /x: is empty$"),
        (wrapped(LoginError("kafka.token_file /x: is empty")), r"^kafka\.token_file"),
        (UserError("kafka.ca_file: x"), r"^kafka\.ca_file"),
        (wrapped(kafka_errors.SaslAuthenticationFailed("no")), r"kafka\.username, and kafka\.password"),
        (ExceptionGroup("x", [wrapped(ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER]"))]), r"kafka\.security_protocol"),
        (kafka_errors.UnsupportedSaslMechanismError(), r"kafka\.sasl_mechanism"),
        (wrapped(kafka_errors.SaslAuthenticationFailed("no")), r"OAUTHBEARER.*kafka\.token_file.*kafka\.token_command"),
        (kafka_errors.TopicAuthorizationFailedError("openstack-logs"), r"topic.*acls\.sh.*\(openstack-logs\)$"),
        (kafka_errors.TopicAuthorizationFailedError({"b.c", "a_1"}), r"topic.*acls\.sh.*\(a_1, b\.c\)$"),
        (kafka_errors.TopicAuthorizationFailedError("no name"), r"topic.*acls\.sh[^(]*$"),
        (kafka_errors.GroupAuthorizationFailedError("g"), r"group.*acls\.sh"),
        (kafka_errors.TransactionalIdAuthorizationFailed(), r"transactional id.*acls\.sh"),
        (ssl.SSLError(1, "[SSL: SOMETHING_NEW]"), r"TLS fails \(.*SOMETHING_NEW.*kafka\.ca_file"),
        (ssl.SSLCertVerificationError(1, "new"), r"not accepted \(.*new.*kafka\.ca_file"),
        (TimeoutError(), "firewall"),
        (wrapped(EOFError()), r"kafka\.security_protocol"),
        (kafka_errors.KafkaConnectionError("Unable to bootstrap"), r"kafka\.bootstrap"),
        (kafka_errors.OffsetOutOfRangeError({}), "removed from the topic.*begin anew"),
        (kafka_errors.UnknownError(), "UnknownError.*broker's log"),
        (ValueError("Server sent wrong signature!"), "ValueError"),
    ],
)
def test_an_error_is_told_as_what_to_mend(error: Exception, told: str) -> None:
    sentence = explain(error)
    assert re.search(told, sentence), sentence
    assert "\n" not in sentence


def test_causes_that_go_in_a_circle_end() -> None:
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    assert "ValueError" in explain(one)


async def test_settings_that_cannot_be_used_and_addresses_without_a_broker_are_told() -> None:
    kafka = KafkaSettings(bootstrap="127.0.0.1:1,nowhere.invalid:9092")
    assert (await why_not(kafka) or "").startswith("nowhere.invalid:9092: the host's name has no address")
    assert "nobody listens there" in (await why_not(KafkaSettings(bootstrap="127.0.0.1:1")) or "")
    assert "kafka.ca_file" in (await why_not(KafkaSettings(security_protocol="SSL", ca_file=Path("/nowhere"))) or "")
