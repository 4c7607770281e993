"""What a client logs in with: exactly one way, read when it is needed, and no secret in any message."""

from __future__ import annotations

import asyncio
import shlex
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from aiokafka.conn import AIOKafkaConnection

from loggpt_stream.errors import UserError
from loggpt_stream.kafka.login import MAX_SECRET_BYTES, Certificates, LoginError, SecretFile, TokenCommand, TokenFile
from loggpt_stream.kafka.settings import KafkaSettings
from loggpt_stream.settings import Settings, load
from testing.kafka_security import Authority

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECRET = "hunter2-hunter2"


class Example(Settings):
    kafka: KafkaSettings = KafkaSettings()


def loaded(*flags: str) -> KafkaSettings:
    return load(Example, [f"--kafka.{flag}" for flag in flags], prog="example", description="").kafka


def python(code: str) -> str:
    return shlex.join([sys.executable, "-c", code])


OAUTH = ("security-protocol=SASL_SSL", "sasl-mechanism=OAUTHBEARER")
SCRAM = ("security-protocol=SASL_SSL", "username=me")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (SCRAM, r"needs password: set LOGGPT_KAFKA__PASSWORD \(or LOGGPT_KAFKA__PASSWORD_FILE\)"),
        ((*SCRAM, f"password={SECRET}", "password-file=/x"), "password and password_file are both set"),
        ((*SCRAM, f"password={SECRET}", "token-file=/x"), "token_file is not for SCRAM-SHA-512"),
        ((*SCRAM, f"password={SECRET}", f"token-command={SECRET}"), "token_command is not for SCRAM-SHA-512"),
        (OAUTH, r"needs token_file: set LOGGPT_KAFKA__TOKEN_FILE \(or LOGGPT_KAFKA__TOKEN_COMMAND\)"),
        ((*OAUTH, "token-file=/x", f"token-command={SECRET}"), "token_file and token_command are both set"),
        ((*OAUTH, "token-file=/x", f"password={SECRET}"), "password is not for OAUTHBEARER"),
        ((*OAUTH, f"token-command={SECRET} '"), "token_command is empty, or a quote in it does not end"),
        ((*OAUTH, "token-command= "), "token_command is empty"),
        (("ca-file=/x",), "ca_file is set, but PLAINTEXT does not encrypt: set LOGGPT_KAFKA__SECURITY_PROTOCOL"),
        (("certificate-file=/x",), "certificate_file is set, but PLAINTEXT does not encrypt"),
        (("security-protocol=SSL", "key-file=/x"), "set LOGGPT_KAFKA__CERTIFICATE_FILE"),
    ],
)
def test_ways_to_log_in_that_do_not_go_together_are_named_with_what_to_set(flags: tuple[str, ...], told: str) -> None:
    with pytest.raises(UserError, match=told) as caught:
        loaded(*flags)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("held", "told"),
    [
        (None, "No such file"),
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"\xff\xfe", "is no UTF-8 text"),
        (f"{SECRET}\nmore".encode(), "holds more than one line"),
        (f"{SECRET}\0x".encode(), "control characters"),
        (SECRET.encode() * MAX_SECRET_BYTES, "more than 65536 bytes"),
    ],
)
def test_a_secret_file_that_holds_none_is_named(tmp_path: Path, held: bytes | None, told: str) -> None:
    file = tmp_path / "secret"
    if held is not None:
        file.write_bytes(held)
    for settings in (
        loaded(*SCRAM, f"password-file={file}"),
        loaded(*OAUTH, f"token-file={file}"),
    ):
        with pytest.raises(UserError, match=rf"^kafka\.(password|token)_file {file}: .*{told}") as caught:
            settings.client_options()
        assert SECRET not in str(caught.value)


def test_a_secret_file_is_read_each_time_without_its_line_end_and_shows_in_no_repr(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(f" {SECRET} \r\n")
    secret = SecretFile("kafka.password_file", file)
    assert secret.read() == f" {SECRET} "
    options = loaded(*SCRAM, f"password-file={file}").client_options()
    assert SECRET not in repr(options)
    file.write_text("changed")
    assert secret.read() == "changed"


async def test_every_connection_reads_the_password_anew(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("first")
    options = loaded(*SCRAM, f"password-file={file}").client_options()
    del options["bootstrap_servers"]
    assert AIOKafkaConnection("localhost", 1, **options)._sasl_plain_password == "first"
    file.write_text("second")
    assert AIOKafkaConnection("localhost", 1, **options)._sasl_plain_password == "second"
    file.unlink()
    with pytest.raises(LoginError, match=r"kafka\.password_file"):
        AIOKafkaConnection("localhost", 1, **options)


async def test_every_connection_reads_the_token_anew(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    provider = TokenFile(file)
    assert await provider.token() == "first"
    file.write_text("second\n")
    assert await provider.token() == "second"


async def test_a_token_program_is_run_each_time_and_without_a_shell(tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    code = f"open({str(counter)!r}, 'a').write('x'); print(open({str(counter)!r}).read())"
    provider = TokenCommand(python(code))
    assert [await provider.token(), await provider.token()] == ["x", "xx"]
    assert await TokenCommand("echo $HOME;ls `x` >y").token() == "$HOME;ls `x` >y"


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import sys; sys.exit(3)", "ended with exit code 3"),
        ("pass", "what it printed: is empty"),
        (f"print({SECRET!r} * 9_999)", "more than 65536 bytes"),
        (f"print({SECRET!r}); print({SECRET!r})", "more than one line"),
        (f"import sys; print({SECRET!r}); sys.stderr.write({SECRET!r}); sys.exit(1)", "ended with exit code 1"),
    ],
)
async def test_a_token_program_that_fails_is_named_without_its_arguments_and_output(
    capfd: pytest.CaptureFixture[str], code: str, told: str
) -> None:
    with pytest.raises(LoginError, match=rf"^kafka\.token_command \S+: .*{told}") as caught:
        await TokenCommand(python(code)).token()
    assert SECRET not in str(caught.value)
    assert SECRET not in "".join(capfd.readouterr())


async def test_a_token_program_that_is_not_there_is_named() -> None:
    with pytest.raises(LoginError, match=r"^kafka\.token_command /nowhere/x: No such file"):
        await TokenCommand(f"/nowhere/x {SECRET}").token()


async def test_a_token_program_that_takes_too_long_is_ended_with_its_children(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    child = f"import os, time; open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(300)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    provider = TokenCommand(python(parent), timeout_s=3.0)
    with pytest.raises(LoginError, match="gave no token within 3 s"):
        await provider.token()
    number = int(note.read_text())
    deadline_s = time.monotonic() + 10
    while psutil.pid_exists(number) and psutil.Process(number).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.05)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def test_a_certificate_may_hold_its_key(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("me")
    both = tmp_path / "both.pem"
    both.write_text(certificate.read_text() + key.read_text())
    assert Certificates(authority.certificate, certificate, key).context().check_hostname
    assert Certificates(authority.certificate, both).context().check_hostname


def bad_files(authority: Authority, folder: Path) -> Iterator[tuple[dict[str, Any], str]]:
    certificate, key = authority.issue("me")
    other = authority.issue("other")[1]
    junk, nowhere, locked = folder / "junk", folder / "nowhere", folder / "locked.key"
    junk.write_text("junk")
    command = ["openssl", "pkcs8", "-topk8", "-in", str(key), "-out", str(locked), "-passout", "pass:x"]
    subprocess.run(command, check=True)
    yield {"ca_file": junk}, r"kafka\.ca_file \S+junk: does not hold a certificate in PEM form"
    yield {"ca_file": nowhere}, r"kafka\.ca_file \S+nowhere: No such file"
    yield {"certificate_file": nowhere}, r"kafka\.certificate_file \S+nowhere: No such file"
    yield {"certificate_file": certificate, "key_file": nowhere}, r"kafka\.key_file \S+nowhere: No such file"
    yield {"certificate_file": certificate, "key_file": junk}, r"kafka\.key_file \S+junk: does not hold"
    yield {"certificate_file": certificate}, r"kafka\.key_file \S+me\.pem: does not hold .*private key"
    yield {"certificate_file": certificate, "key_file": other}, r"kafka\.certificate_file .*does not hold"
    yield {"certificate_file": certificate, "key_file": locked}, r"locked\.key: does not hold .*unencrypted"


def test_a_file_of_certificates_that_cannot_be_used_is_named(authority: Authority, tmp_path: Path) -> None:
    for settings, told in bad_files(authority, tmp_path):
        with pytest.raises(UserError, match=told):
            KafkaSettings(security_protocol="SSL", **settings).client_options()


def test_nobody_is_asked_for_a_keys_password(authority: Authority, tmp_path: Path) -> None:
    *_, (settings, _) = bad_files(authority, tmp_path)
    files = {name: str(file) for name, file in settings.items()}
    code = (
        "from loggpt_stream.kafka.settings import KafkaSettings\n"
        "from loggpt_stream.errors import UserError\n"
        f"try: KafkaSettings(security_protocol='SSL', **{files}).client_options()\n"
        "except UserError: print('refused')"
    )
    # A session of its own: no terminal to ask on, so that a question is an error here and not a hang.
    command = [sys.executable, "-c", code]
    told = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        start_new_session=True,
    )
    assert (told.stdout, told.stderr) == ("refused\n", "")
