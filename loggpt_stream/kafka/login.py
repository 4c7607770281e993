"""What a Kafka client logs in with: a password or token that is read again for every connection, certificates.

aiokafka takes a password once, as text, for the life of a client, and overlooks that the broker refused a token.
`install` puts both right, on two public names of aiokafka 0.14: the constructor of `AIOKafkaConnection` (one object a
connection) and its `authenticator_oauth`. No message holds a secret.
"""

from __future__ import annotations

import asyncio
import functools
import os
import shlex
import signal
import ssl
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from aiokafka.abc import AbstractTokenProvider
from aiokafka.conn import AIOKafkaConnection, OAuthAuthenticator
from aiokafka.errors import KafkaError

from loggpt_stream.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

MAX_SECRET_BYTES: Final = 65_536
TOKEN_COMMAND_TIMEOUT_S: Final = 10.0


class LoginError(KafkaError):  # type: ignore[misc] # aiokafka has no types
    """What we log in with cannot be had, or the broker refuses it: a sentence that names the setting.

    It is aiokafka's kind of error, so that a client that runs already tries again: a secret may be changing right now.
    """

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True, slots=True)
class SecretFile:
    """A secret in a file, read whenever it is needed. `setting` names it in messages."""

    setting: str
    path: Path

    def read(self) -> str:
        """Return the file's text without the line end behind it. Raises `LoginError` where there is none."""
        try:
            with self.path.open("rb") as stream:
                held = stream.read(MAX_SECRET_BYTES + 1)
        except OSError as error:
            raise LoginError(f"{self.setting} {self.path}: {error.strerror or 'cannot be read'}") from None
        return _secret(held, f"{self.setting} {self.path}")


def _secret(held: bytes, where: str) -> str:
    if len(held) > MAX_SECRET_BYTES:
        raise LoginError(f"{where}: more than {MAX_SECRET_BYTES} bytes: that is no secret")
    try:
        text = held.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise LoginError(f"{where}: is no UTF-8 text") from None
    if not text:
        raise LoginError(f"{where}: is empty")
    if any(character < " " for character in text):
        # A NUL parts the fields of SASL PLAIN (RFC 4616), \x01 those of OAUTHBEARER (RFC 7628).
        raise LoginError(f"{where}: holds more than one line, or control characters")
    return text


class TokenFile(AbstractTokenProvider):  # type: ignore[misc] # aiokafka has no types
    """OAUTHBEARER tokens from a file, read for every connection."""

    def __init__(self, path: Path) -> None:
        self.setting = "kafka.token_file"
        self._file = SecretFile(self.setting, path)

    async def token(self) -> str:
        """Return the token. Raises `LoginError`."""
        return self._file.read().strip()


class TokenCommand(AbstractTokenProvider):  # type: ignore[misc] # aiokafka has no types
    """OAUTHBEARER tokens from the output of a program, run without a shell for every connection."""

    def __init__(self, command: str, *, timeout_s: float = TOKEN_COMMAND_TIMEOUT_S) -> None:
        """Raise `ValueError` where `command` holds no words, or a quote that does not end."""
        self.setting = "kafka.token_command"
        try:
            self._words = shlex.split(command)
        except ValueError:
            self._words = []
        if not self._words:
            raise ValueError("token_command is empty, or a quote in it does not end: give a program and its arguments")
        self._timeout_s = timeout_s

    async def token(self) -> str:
        """Return what the program printed. Raises `LoginError` where it fails, or takes too long; it is ended then."""
        where = f"{self.setting} {self._words[0]}"  # its arguments may hold a secret
        try:
            process = await asyncio.create_subprocess_exec(
                *self._words,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                # What it complains about may hold the token, and our log is no place for that.
                stderr=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            raise LoginError(f"{where}: {error.strerror or 'cannot be started'}") from None
        try:
            async with asyncio.timeout(self._timeout_s):
                printed = await _read(process.stdout)
                code = await process.wait()
        except TimeoutError:
            raise LoginError(f"{where}: gave no token within {self._timeout_s:g} s") from None
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # its children too
                await process.wait()
        if code != 0:
            raise LoginError(f"{where}: ended with exit code {code}; run it by hand to see why")
        return _secret(printed, f"{where}: what it printed").strip()


async def _read(stream: asyncio.StreamReader | None) -> bytes:
    held = bytearray()
    while stream is not None and len(held) <= MAX_SECRET_BYTES and (piece := await stream.read(MAX_SECRET_BYTES + 1)):
        held += piece
    return bytes(held)


class _CheckedOAuth(OAuthAuthenticator):  # type: ignore[misc] # aiokafka has no types
    """aiokafka's OAUTHBEARER, which also reads the broker's answer.

    A broker answers a bad token with a JSON text and waits (RFC 7628, section 3.2.3). aiokafka takes that for success,
    and whatever it asks next ends in a closed connection.
    """

    def __init__(self, provider: Any) -> None:  # noqa: ANN401 - aiokafka's token provider
        super().__init__(sasl_oauth_token_provider=provider)
        self._setting = getattr(provider, "setting", "the token")

    async def step(self, payload: bytes | None) -> Any:  # noqa: ANN401 - aiokafka's pair
        """Return aiokafka's next step. Raises `LoginError` where the broker refuses the token."""
        if payload:
            raise LoginError(f"{self._setting}: the broker refuses the token, as expired or not meant for it")
        return await super().step(payload)


@functools.cache
def install() -> None:
    """Let aiokafka take a `SecretFile` for a password, and tell a refused token. Once a process."""
    make = AIOKafkaConnection.__init__

    @functools.wraps(make)
    def with_fresh_password(
        self: Any,  # noqa: ANN401 - aiokafka's connection
        *args: Any,  # noqa: ANN401
        sasl_plain_password: SecretFile | str | None = None,
        **options: Any,  # noqa: ANN401
    ) -> None:
        if isinstance(sasl_plain_password, SecretFile):
            sasl_plain_password = sasl_plain_password.read()
        self._token_provider = options.get("sasl_oauth_token_provider")
        make(self, *args, sasl_plain_password=sasl_plain_password, **options)

    AIOKafkaConnection.__init__ = with_fresh_password
    AIOKafkaConnection.authenticator_oauth = lambda self: _CheckedOAuth(self._token_provider)


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM files: whom to trust, and who we are. None: the system's authorities; no certificate of ours."""

    authority: Path | None = None
    ours: Path | None = None
    key: Path | None = field(default=None, repr=False)

    def context(self) -> ssl.SSLContext:
        """Return a context that checks the broker's name and certificate. Raises `UserError` naming the bad file."""
        try:
            context = ssl.create_default_context(cafile=self.authority)
        except OSError as error:
            raise UserError(f"kafka.ca_file {self.authority}: {_reason(error, 'a certificate')}") from error
        if self.ours is not None:
            key = self.key or self.ours
            for setting, file in (("certificate_file", self.ours), ("key_file", key)):
                if not os.access(file, os.R_OK):
                    what = "permission denied" if file.exists() else "No such file or directory"
                    raise UserError(f"kafka.{setting} {file}: {what}")
            try:
                context.load_cert_chain(self.ours, key, password=_refuse_encrypted)
            except (OSError, ValueError) as error:
                told = _reason(error, "a certificate and its unencrypted private key")
                raise UserError(f"kafka.certificate_file {self.ours}, kafka.key_file {key}: {told}") from error
        return context


def _refuse_encrypted() -> str:
    """Return no password: OpenSSL would ask for one on the terminal, where nobody sits before a daemon."""
    return ""


def _reason(error: Exception, wanted: str) -> str:
    if isinstance(error, ssl.SSLError) or not isinstance(error, OSError):
        return f"does not hold {wanted} in PEM form"
    return error.strerror or str(error)
