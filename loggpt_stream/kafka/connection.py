"""Why Kafka does not let us in, or not do what we asked: one sentence that names the setting, and what to do.

aiokafka's clients try every address and then say only that none worked. `why_not` asks once more, and keeps the reason.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from typing import TYPE_CHECKING, Any, Final

from aiokafka import errors as kafka_errors
from aiokafka.conn import collect_hosts, create_conn
from aiokafka.protocol.metadata import MetadataRequest

from loggpt_stream.errors import UserError
from loggpt_stream.kafka.login import LoginError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loggpt_stream.kafka.settings import KafkaSettings

_ACLS: Final = "deploy/kafka/acls.sh lists what it needs"
_WRONG_PROTOCOL: Final = "does kafka.security_protocol say what this port of the broker speaks?"

# OpenSSL's codes of X509_verify_cert_error_string(3).
_CERTIFICATE: Final = {
    9: "the broker's certificate is not valid yet: are the clocks of both machines right?",
    10: "the broker's certificate, or its authority's, has expired: renew it on the broker, or correct this clock",
    18: "the broker's certificate is signed by itself: name it, or the authority that signs for it, in kafka.ca_file",
    19: "the authority behind the broker's certificate is not trusted: name its certificate in kafka.ca_file",
    20: "the authority behind the broker's certificate is not trusted: name its certificate in kafka.ca_file",
    21: "the authority behind the broker's certificate is not trusted: name its certificate in kafka.ca_file",
    62: "the broker's certificate is for another name than kafka.bootstrap (or advertised.listeners) uses: use that",
    64: "the broker's certificate is not for its IP address: use the name that it is for in kafka.bootstrap",
}

# Part of OpenSSL's reason, and what it means here.
_TLS: Final = {
    "WRONG_VERSION_NUMBER": f"the broker does not speak TLS on this port: {_WRONG_PROTOCOL}",
    "RECORD_LAYER_FAILURE": f"the broker does not speak TLS on this port: {_WRONG_PROTOCOL}",
    "CERTIFICATE_REQUIRED": "the broker wants a certificate of ours: set kafka.certificate_file and kafka.key_file",
    "UNKNOWN_CA": "the broker does not trust the authority behind kafka.certificate_file: have it signed by one of its",
    "CERTIFICATE_EXPIRED": "our certificate has expired: renew kafka.certificate_file",
    "CERTIFICATE_UNKNOWN": "the broker does not accept kafka.certificate_file: is it signed by whom the broker trusts?",
    "BAD_CERTIFICATE": "the broker wants a certificate of ours, or a better one: see kafka.certificate_file",
    "HANDSHAKE_FAILURE": "the broker and we have no TLS version, cipher or certificate in common; see its listener",
}

# In this order: the first that fits.
_KINDS: Final[tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str], ...]] = (
    (
        kafka_errors.SaslAuthenticationFailed,
        (
            "the broker refuses the login: check kafka.username, and kafka.password or what kafka.password_file holds; "
            "with OAUTHBEARER, what kafka.token_file holds or kafka.token_command prints"
        ),
    ),
    (
        kafka_errors.UnsupportedSaslMechanismError,
        "the broker does not offer this SASL mechanism: set kafka.sasl_mechanism to one that it does",
    ),
    (kafka_errors.IllegalSaslStateError, f"the broker wants no SASL on this port: {_WRONG_PROTOCOL}"),
    (kafka_errors.TopicAuthorizationFailedError, f"this user may not do that with the topic: {_ACLS}"),
    (kafka_errors.GroupAuthorizationFailedError, f"this user may not use the consumer group: {_ACLS}"),
    (kafka_errors.TransactionalIdAuthorizationFailed, f"this user may not use the transactional id: {_ACLS}"),
    (kafka_errors.ClusterAuthorizationFailedError, f"this user may not do that to the cluster: {_ACLS}"),
    (kafka_errors.OffsetOutOfRangeError, "what was to be read next was removed from the topic: begin anew"),
    (socket.gaierror, "the host's name has no address: check kafka.bootstrap, and DNS"),
    (ConnectionRefusedError, "nobody listens there: check kafka.bootstrap, and that the broker is up"),
    (TimeoutError, "no answer in time: check kafka.bootstrap, and whether a firewall stands between"),
    (
        (EOFError, ConnectionResetError, ConnectionAbortedError, BrokenPipeError),
        f"the broker ends the connection without a word: {_WRONG_PROTOCOL} Its own log says more",
    ),
    (
        kafka_errors.KafkaConnectionError,
        "the broker cannot be reached, or ended the connection: check kafka.bootstrap and kafka.security_protocol",
    ),
)


class NotYetError(kafka_errors.KafkaError):  # type: ignore[misc] # aiokafka has no types
    """The brokers cannot do yet what is asked: a sentence that says why. Like their absence, it is to be waited out."""

    def __str__(self) -> str:
        return str(self.args[0])


def explain(error: BaseException) -> str:
    """Return one sentence on what an error of aiokafka, TLS or the network means, and what to do; without secrets."""
    causes = list(_causes(error))
    # What lies deeper is nearer to the reason: aiokafka wraps what a connection ended with.
    for each in reversed(causes):
        if isinstance(each, LoginError | NotYetError | UserError):
            return str(each)
        if isinstance(each, ssl.SSLError):
            return _of_tls(each)
    for kinds, sentence in _KINDS:
        for each in reversed(causes):
            if isinstance(each, kinds):
                named = _topics(each) if isinstance(each, kafka_errors.TopicAuthorizationFailedError) else []
                return f"{sentence} ({', '.join(named)})" if named else sentence
    return f"Kafka does not do what was asked ({type(error).__name__}): see the broker's log"


async def why_not(kafka: KafkaSettings, *, timeout_s: float = 10.0) -> str | None:
    """Log in at each address of `kafka.bootstrap` in turn: None as soon as one lets us in, else why it does not.

    An address gets at most `timeout_s`. The sentence begins with the last address tried.
    """
    try:
        options = kafka.client_options()
    except UserError as error:
        return str(error)
    del options["bootstrap_servers"]
    told = "kafka.bootstrap names no address"
    for host, port, _ in collect_hosts(kafka.bootstrap, randomize=False):
        try:
            async with asyncio.timeout(timeout_s):
                await _log_in(host, port, options)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what we were asked for
            told = f"{host}:{port}: {explain(error)}"
        else:
            return None
    return told


async def _log_in(host: str, port: int, options: dict[str, Any]) -> None:
    connection = await create_conn(host, port, **options)
    try:
        # A listener that wants a login lets others ask for its versions, and ends the connection after that.
        await connection.send(MetadataRequest([]))
    finally:
        connection.close()


def _topics(error: BaseException) -> list[str]:
    """Return the topics that an error names: aiokafka gives one as text, several as a set."""
    given = [each for part in error.args for each in (part if isinstance(part, set | frozenset) else [part])]
    return sorted(each for each in given if isinstance(each, str) and re.fullmatch(r"[\w.-]+", each))


def _of_tls(error: ssl.SSLError) -> str:
    reason = str(error)  # not all of them have `reason` and `verify_code`
    if isinstance(error, ssl.SSLCertVerificationError):
        told = f"the broker's certificate is not accepted ({reason}): check kafka.ca_file"
        return _CERTIFICATE.get(getattr(error, "verify_code", -1), told)
    return next(
        (sentence for part, sentence in _TLS.items() if part in reason),
        f"TLS fails ({reason}): check kafka.security_protocol, kafka.ca_file and the broker's log",
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what it came from, outermost first."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        within = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else None
        error = within or error.__cause__ or error.__context__
