"""What makes a test broker refuse strangers: TLS listeners, SASL logins and ACLs, all made at test time."""

from __future__ import annotations

import json
import subprocess
import time
from base64 import urlsafe_b64encode
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

# Listener → what a client gives for kafka.security_protocol.
LISTENERS: Final = {"TLS": "SASL_SSL", "CLEAR": "SASL_PLAINTEXT", "MUTUAL": "SSL"}

_CONFIG: Final = """\
[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[leaf]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
subjectAltName = IP:127.0.0.1
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


@dataclass(slots=True)
class Authority:
    """A certificate authority in a folder: `certificate` is what clients trust."""

    folder: Path
    name: str = "test authority"
    certificate: Path = field(init=False)
    _key: Path = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.certificate, self._key = self.folder / "ca.pem", self.folder / "ca.key"
        (self.folder / "openssl.cnf").write_text(_CONFIG)
        self._request("authority", self.name, self._key, self.certificate)

    def issue(self, name: str) -> tuple[Path, Path]:
        """Return (certificate, private key) files of a new leaf for 127.0.0.1, and no name."""
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        self._request("leaf", name, key, certificate, "-CA", str(self.certificate), "-CAkey", str(self._key))
        return certificate, key

    def _request(self, kind: str, name: str, key: Path, certificate: Path, *options: str) -> None:
        command = ["openssl", "req", "-x509", "-config", str(self.folder / "openssl.cnf"), "-extensions", kind]
        command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        command += ["-subj", f"/CN={name}", "-keyout", str(key), "-out", str(certificate), *options]
        told = subprocess.run(command, capture_output=True, text=True, check=False)
        assert told.returncode == 0, told.stderr


def unsecured_token(subject: str, *, lasts_s: float = 600.0) -> str:
    """Return a JWT that nobody signed (RFC 7519, section 6), as Kafka's own validator for tests takes it."""
    now_s = time.time()
    claims = {"sub": subject, "iat": now_s - 60.0, "exp": now_s + lasts_s}
    parts = (urlsafe_b64encode(json.dumps(each).encode()).rstrip(b"=").decode() for each in ({"alg": "none"}, claims))
    return ".".join([*parts, ""])


@dataclass(slots=True)
class Security:
    """Logins of a test broker: each listener of LISTENERS beside the plain one, which stays its super user's.

    plain: passwords of SASL PLAIN by user; scram: of SCRAM, both kinds. Anybody with an unsecured token is let in by
    OAUTHBEARER, as the token's subject. MUTUAL wants a certificate that `authority` has issued. Without an ACL nobody
    but a super user (`admins`: users of the other listeners) may do anything.
    """

    authority: Authority
    plain: dict[str, str] = field(default_factory=dict)
    scram: dict[str, str] = field(default_factory=dict)
    admins: tuple[str, ...] = ()
    ports: dict[str, int] = field(default_factory=dict)

    def bootstrap(self, listener: str) -> str:
        """Return the address of a listener of LISTENERS."""
        return f"127.0.0.1:{self.ports[listener]}"

    def format_options(self) -> list[str]:
        """Return what StorageTool needs to know of the SCRAM users."""
        return [
            option
            for user, password in self.scram.items()
            for kind in ("SCRAM-SHA-256", "SCRAM-SHA-512")
            for option in ("--add-scram", f"{kind}=[name={user},password={password}]")
        ]

    def properties(self, ports: dict[str, int]) -> dict[str, object]:
        """Return the broker's settings beside the usual ones; `listeners` and their like are to be appended."""
        self.ports = ports
        certificate, key = self.authority.issue("broker")
        store = certificate.with_name("broker-store.pem")
        store.write_text(certificate.read_text() + key.read_text())
        module, login = "org.apache.kafka.common.security", "listener.name.{}.{}.sasl.jaas.config"
        plain = "".join(f' user_{user}="{password}"' for user, password in self.plain.items())
        settings: dict[str, object] = {
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": store,
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": self.authority.certificate,
            "listener.name.mutual.ssl.client.auth": "required",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            # Who comes in by the plain listener has no name.
            "super.users": ";".join(f"User:{name}" for name in ("ANONYMOUS", *self.admins)),
        }
        for listener in ("tls", "clear"):
            settings |= {
                f"listener.name.{listener}.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER",
                login.format(listener, "plain"): f"{module}.plain.PlainLoginModule required{plain};",
                login.format(listener, "scram-sha-256"): f"{module}.scram.ScramLoginModule required;",
                login.format(listener, "scram-sha-512"): f"{module}.scram.ScramLoginModule required;",
                login.format(listener, "oauthbearer"): (
                    f'{module}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";'
                ),
            }
        return settings
