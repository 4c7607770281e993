"""No password and no token in anything that our programs print, right or wrong, at the most talkative level."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from testing.daemon_process import DaemonProcess, Topics, produce
from testing.kafka_security import LISTENERS, unsecured_token
from testing.tiny_bundle import tiny_bundle
from tests.integration.conftest import PASSWORDS

if TYPE_CHECKING:
    from pathlib import Path

    from loggpt_stream.model.bundle import Bundle
    from testing.kafka_server import KafkaServer

WRONG = "wrong-hunter2"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "bundle", alert_share=1.0)


def secrets_of(folder: Path, way: str, *, right: bool) -> tuple[dict[str, str], str]:
    """Return the environment that logs in, rightly or not, and the secret in it."""
    if way == "token":
        secret = unsecured_token("token-user", lasts_s=600.0 if right else -30.0)
        (folder / "token").write_text(secret)
        return {"SASL_MECHANISM": "OAUTHBEARER", "TOKEN_FILE": str(folder / "token")}, secret
    secret = PASSWORDS["plain-user"] if right else WRONG
    named = {"SASL_MECHANISM": "PLAIN", "USERNAME": "plain-user"}
    if way == "password":
        return {**named, "PASSWORD": secret}, secret
    (folder / "password").write_text(secret)
    return {**named, "PASSWORD_FILE": str(folder / "password")}, secret


def set_environment(
    monkeypatch: pytest.MonkeyPatch, server: KafkaServer, listener: str, environment: dict[str, str]
) -> str:
    """Let our programs log in at this listener; return its address."""
    assert server.security is not None
    ca_file = {"CA_FILE": str(server.security.authority.certificate)} if listener == "TLS" else {}
    for name, value in {**environment, **ca_file, "SECURITY_PROTOCOL": LISTENERS[listener]}.items():
        monkeypatch.setenv(f"LOGGPT_KAFKA__{name}", value)
    return server.security.bootstrap(listener)


async def said(process: DaemonProcess, text: bytes) -> None:
    """Wait until the daemon's log holds `text`."""
    deadline_s = time.monotonic() + 90
    while text not in process.log_path.read_bytes():
        assert process.process.poll() is None
        assert time.monotonic() < deadline_s, process.log_path.read_text()[-4000:]
        await asyncio.sleep(0.1)


def doctor(flags: list[str]) -> str:
    """Return all that `loggpt-stream doctor` prints."""
    command = [sys.executable, "-m", "loggpt_stream", "doctor", "--http-host", "127.0.0.1", "--http-port", "0"]
    told = subprocess.run([*command, *flags], capture_output=True, text=True, check=False, timeout=120)
    assert "broker" in told.stdout, told.stderr
    return told.stdout + told.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("listener", "way", "right"),
    [
        ("CLEAR", "password", True),
        ("TLS", "password_file", False),
        ("CLEAR", "token", False),
    ],
)
async def test_daemon_and_doctor_show_no_secret(  # noqa: PLR0917 - fixtures and the case
    secure_kafka: KafkaServer,
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    listener: str,
    way: str,
    right: bool,
) -> None:
    topics = await Topics.create(secure_kafka.bootstrap)
    environment, secret = secrets_of(tmp_path, way, right=right)
    bootstrap = set_environment(monkeypatch, secure_kafka, listener, environment)
    flags = [*topics.flags(), "--kafka.bootstrap", bootstrap, "--bundle", str(bundle.path)]
    with DaemonProcess(tmp_path, [*flags, "--log-level", "debug"]) as process:
        if right:
            await process.ready()
            await produce(secure_kafka.bootstrap, topics.input, [b"a line", None])
            await process.reached("loggpt_dead_letters_total", 1)
        else:
            await said(process, b"Unable connect to")
            await process.saw("broker_unavailable")
        await process.terminate()
    told_by_doctor = await asyncio.to_thread(doctor, flags)
    if not right:
        away = next(event for event in process.events() if event["event"] == "broker_unavailable")
        assert "the broker refuses the " in away["reason"]
        assert "the broker refuses the " in told_by_doctor
    shown = process.log_path.read_text() + told_by_doctor + "".join(capfd.readouterr())
    assert "aiokafka" in shown or right
    assert secret not in shown
    assert secret.encode().hex() not in shown


@pytest.mark.parametrize("command", ["run", "simulate"])
def test_help_shows_no_secret_of_the_environment(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setenv("LOGGPT_KAFKA__PASSWORD", WRONG)
    monkeypatch.setenv("LOGGPT_KAFKA__TOKEN_COMMAND", WRONG)
    told = subprocess.run(
        [sys.executable, "-m", "loggpt_stream", command, "--help"], capture_output=True, text=True, check=True
    )
    assert "--kafka.password-file" in told.stdout
    assert WRONG not in told.stdout + told.stderr
