"""TLS and every SASL mechanism against a real broker that requires them, through the daemon's own client options."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaError
from confluent_kafka.admin import (  # type: ignore[attr-defined] # exported all the same
    AdminClient,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from pydantic import SecretStr

from loggpt_stream.daemon.settings import DaemonSettings
from loggpt_stream.dead_letters.reinject import reinject
from loggpt_stream.dead_letters.selection import Selection
from loggpt_stream.errors import UserError
from loggpt_stream.kafka.connection import explain, why_not
from loggpt_stream.kafka.settings import KafkaSettings
from testing.kafka_security import LISTENERS, Authority, Security, unsecured_token
from testing.kafka_server import create_topic, unique_name
from tests.integration.conftest import PASSWORDS

if TYPE_CHECKING:
    from pathlib import Path

    from testing.kafka_server import KafkaServer

WRONG = "wrong-hunter2"


def security_of(server: KafkaServer) -> Security:
    assert server.security is not None
    return server.security


def to_listener(server: KafkaServer, listener: str, **settings: Any) -> KafkaSettings:
    security = security_of(server)
    protocol = LISTENERS[listener]
    if protocol.endswith("SSL"):
        settings.setdefault("ca_file", security.authority.certificate)
    return KafkaSettings(bootstrap=security.bootstrap(listener), **{"security_protocol": protocol, **settings})


def by_password(mechanism: str, user: str) -> dict[str, Any]:
    return {"sasl_mechanism": mechanism, "username": user, "password": SecretStr(PASSWORDS[user])}


def by_token(folder: Path, *, lasts_s: float = 600.0) -> dict[str, Any]:
    file = folder / "token"
    file.write_text(unsecured_token("token-user", lasts_s=lasts_s) + "\n")
    return {"sasl_mechanism": "OAUTHBEARER", "token_file": file}


async def echo(kafka: KafkaSettings, topic: str) -> list[bytes | None]:
    """Write two records in a transaction and return what a reader of its own finds."""
    identity = unique_name("writer")
    producer = AIOKafkaProducer(**kafka.client_options(), transactional_id=identity)
    async with producer, producer.transaction():
        await producer.send_and_wait(topic, b"one")
        await producer.send_and_wait(topic, b"two")
    values: list[bytes | None] = []
    consumer = AIOKafkaConsumer(topic, **kafka.client_options(), auto_offset_reset="earliest")
    async with asyncio.timeout(60), consumer:
        while len(values) < 2:
            values.append((await consumer.getone()).value)
    return values


@pytest.mark.parametrize(
    ("listener", "mechanism", "user"),
    [
        ("TLS", "PLAIN", "plain-user"),
        ("TLS", "SCRAM-SHA-512", "scram-user"),
        ("TLS", "SCRAM-SHA-256", "scram-user"),
        ("CLEAR", "PLAIN", "plain-user"),
        ("CLEAR", "SCRAM-SHA-512", "scram-user"),
    ],
)
async def test_a_password_lets_us_write_and_read(
    secure_kafka: KafkaServer, listener: str, mechanism: str, user: str
) -> None:
    topic = unique_name("echo")
    await create_topic(secure_kafka.bootstrap, topic)
    kafka = to_listener(secure_kafka, listener, **by_password(mechanism, user))
    assert await why_not(kafka) is None
    assert await echo(kafka, topic) == [b"one", b"two"]


@pytest.mark.parametrize("listener", ["TLS", "CLEAR"])
async def test_a_token_lets_us_write_and_read(secure_kafka: KafkaServer, listener: str, tmp_path: Path) -> None:
    topic = unique_name("echo")
    await create_topic(secure_kafka.bootstrap, topic)
    assert await echo(to_listener(secure_kafka, listener, **by_token(tmp_path)), topic) == [b"one", b"two"]


async def test_a_token_that_a_program_prints_lets_us_in(secure_kafka: KafkaServer, tmp_path: Path) -> None:
    command = SecretStr(f"cat '{by_token(tmp_path)['token_file']}'")
    kafka = to_listener(secure_kafka, "TLS", sasl_mechanism="OAUTHBEARER", token_command=command)
    assert await why_not(kafka) is None


async def test_a_certificate_of_ours_lets_us_write_and_read(secure_kafka: KafkaServer) -> None:
    topic = unique_name("echo")
    await create_topic(secure_kafka.bootstrap, topic)
    certificate, key = security_of(secure_kafka).authority.issue("client")
    kafka = to_listener(secure_kafka, "MUTUAL", certificate_file=certificate, key_file=key)
    assert await echo(kafka, topic) == [b"one", b"two"]


@pytest.mark.parametrize(
    ("listener", "settings", "named"),
    [
        ("TLS", {**by_password("PLAIN", "plain-user"), "password": SecretStr(WRONG)}, r"kafka\.password"),
        ("TLS", {**by_password("SCRAM-SHA-512", "scram-user"), "password": SecretStr(WRONG)}, r"kafka\.password"),
        ("CLEAR", {**by_password("SCRAM-SHA-512", "scram-user"), "username": "nobody"}, r"kafka\.username"),
        ("TLS", {**by_password("PLAIN", "plain-user"), "security_protocol": "SSL"}, r"kafka\.security_protocol"),
        ("TLS", {"security_protocol": "PLAINTEXT", "ca_file": None}, r"kafka\.security_protocol"),
        ("CLEAR", {"security_protocol": "PLAINTEXT"}, r"kafka\.security_protocol"),
        ("CLEAR", {**by_password("PLAIN", "plain-user"), "security_protocol": "SASL_SSL"}, r"kafka\.security_protocol"),
        ("TLS", {**by_password("PLAIN", "plain-user"), "ca_file": None}, r"authority .* not trusted.*kafka\.ca_file"),
        ("MUTUAL", {}, r"kafka\.certificate_file"),
    ],
)
async def test_what_does_not_let_us_in_names_the_setting_and_no_secret(
    secure_kafka: KafkaServer, listener: str, settings: dict[str, Any], named: str
) -> None:
    told = await why_not(to_listener(secure_kafka, listener, **settings))
    assert re.search(named, told or ""), told
    assert told is not None
    assert "hunter2" not in told


async def test_dead_letters_and_history_name_the_setting_that_keeps_them_out(secure_kafka: KafkaServer) -> None:
    wrong = {**by_password("SCRAM-SHA-512", "scram-user"), "password": SecretStr(WRONG)}
    settings = DaemonSettings(kafka=to_listener(secure_kafka, "TLS", **wrong))
    for dry_run in (True, False):  # reading fails, or else the producer
        with pytest.raises(UserError, match=r"refuses the login: check kafka\.username, and kafka\.password"):
            await reinject(settings, Selection(), again=False, dry_run=dry_run)


async def test_a_topic_that_may_not_be_described_is_not_told_as_one_that_is_not_there(
    secure_kafka: KafkaServer,
) -> None:
    topic = unique_name("dead")
    await create_topic(secure_kafka.bootstrap, topic)
    settings = DaemonSettings(
        kafka=to_listener(secure_kafka, "TLS", **by_password("PLAIN", "limited")), dead_letter_topic=topic
    )
    with pytest.raises(UserError, match=rf"no topic {topic} .* may not describe it .*acls\.sh dead-letters"):
        await reinject(settings, Selection(), again=False, dry_run=True)


async def test_a_certificate_of_another_authority_is_refused_on_both_sides(
    secure_kafka: KafkaServer, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path / "stranger")
    certificate, key = stranger.issue("client")
    told = await why_not(to_listener(secure_kafka, "MUTUAL", ca_file=stranger.certificate))
    assert "not trusted: name its certificate in kafka.ca_file" in (told or "")
    told = await why_not(to_listener(secure_kafka, "MUTUAL", certificate_file=certificate, key_file=key))
    assert "kafka.certificate_file" in (told or "")


async def test_a_certificate_for_another_name_is_refused(secure_kafka: KafkaServer) -> None:
    kafka = to_listener(secure_kafka, "TLS", **by_password("PLAIN", "plain-user"))
    by_name = kafka.model_copy(update={"bootstrap": kafka.bootstrap.replace("127.0.0.1", "localhost")})
    assert "is for another name than kafka.bootstrap" in (await why_not(by_name) or "")


async def test_an_expired_token_is_told_from_a_broken_connection(secure_kafka: KafkaServer, tmp_path: Path) -> None:
    kafka = to_listener(secure_kafka, "TLS", **by_token(tmp_path, lasts_s=-30.0))
    told = await why_not(kafka)
    assert "kafka.token_file: the broker refuses the token" in (told or "")
    assert kafka.token_file is not None
    assert kafka.token_file.read_text().strip() not in (told or "")


async def test_the_next_connection_of_the_same_client_takes_the_changed_token(
    secure_kafka: KafkaServer, tmp_path: Path
) -> None:
    settings = by_token(tmp_path, lasts_s=-30.0)
    producer = AIOKafkaProducer(**to_listener(secure_kafka, "TLS", **settings).client_options())
    with pytest.raises(KafkaError):
        await producer.start()
    by_token(tmp_path)
    await producer.client.bootstrap()
    await producer.stop()


async def test_a_running_client_takes_the_changed_password_for_its_next_connection(
    secure_kafka: KafkaServer, tmp_path: Path
) -> None:
    topic, file, user = unique_name("rotated"), tmp_path / "password", "rotating"
    await create_topic(secure_kafka.bootstrap, topic)
    set_scram_password(secure_kafka, user, "first-hunter2")
    file.write_text("first-hunter2\n")
    kafka = to_listener(secure_kafka, "TLS", username=user, password_file=file)
    await until_let_in(kafka)
    async with AIOKafkaProducer(**kafka.client_options()) as producer:
        await producer.send_and_wait(topic, b"before")
        set_scram_password(secure_kafka, user, "second-hunter2")
        file.write_text("second-hunter2\n")
        await until_let_in(kafka)
        for connection in list(producer.client._conns.values()):
            connection.close()
        await producer.send_and_wait(topic, b"after")
    first = kafka.model_copy(update={"password_file": None, "password": SecretStr("first-hunter2")})
    assert "refuses the login" in (await why_not(first) or "")


def set_scram_password(server: KafkaServer, user: str, password: str) -> None:
    change = UserScramCredentialUpsertion(
        user, ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096), password.encode()
    )
    admin = AdminClient({"bootstrap.servers": server.bootstrap})
    for done in admin.alter_user_scram_credentials([change]).values():
        done.result(30)


async def until_let_in(kafka: KafkaSettings) -> None:
    """Wait until the broker knows a new password: it learns of it from the controller."""
    async with asyncio.timeout(30):
        while (told := await why_not(kafka)) is not None:
            assert "refuses the login" in told
            await asyncio.sleep(0.1)


async def test_what_the_broker_does_not_allow_names_topic_and_where_to_look(secure_kafka: KafkaServer) -> None:
    topic = unique_name("forbidden")
    await create_topic(secure_kafka.bootstrap, topic)
    kafka = to_listener(secure_kafka, "TLS", **by_password("PLAIN", "limited"))
    async with AIOKafkaProducer(**kafka.client_options()) as producer:
        with pytest.raises(KafkaError) as caught:
            await producer.send_and_wait(topic, b"x")
    assert "deploy/kafka/acls.sh" in explain(caught.value)
