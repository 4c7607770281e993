"""A broker that lets nobody in without a login, once per test process."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from testing.kafka_security import Authority, Security
from testing.kafka_server import KafkaServer
from tests.conftest import skip_or_fail

if TYPE_CHECKING:
    from collections.abc import Iterator

PASSWORDS = {"plain-user": "plain-hunter2", "scram-user": "scram-hunter2", "limited": "limited-hunter2"}
# Each has rights by one test's ACLs only.
PASSWORDS |= {
    user: f"{user}-hunter2" for user in ("run-user", "route-user", "doctor-user", "letters-user", "setup-user")
}


@pytest.fixture(scope="session")
def secure_kafka(kafka_programs: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """Users: see PASSWORDS; `token-user` by OAUTHBEARER, `CN=client` by certificate. `limited` has no rights."""
    del kafka_programs
    if shutil.which("openssl") is None:
        skip_or_fail("needs openssl")
    folder = tmp_path_factory.mktemp("secure-kafka")
    security = Security(
        Authority(folder / "authority"),
        plain={user: password for user, password in PASSWORDS.items() if user != "scram-user"},
        scram={"scram-user": PASSWORDS["scram-user"]},
        admins=("plain-user", "scram-user", "token-user", "CN=client", "rotating"),
    )
    with KafkaServer(folder / "kafka", security=security) as server:
        yield server
