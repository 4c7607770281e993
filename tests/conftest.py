"""What every test may use: a real Kafka, started once per test process and only if a test asks for it."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import pytest
import structlog
from hypothesis import settings

from testing.kafka_server import KafkaServer, missing_programs

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from testing.fork_server import ForkServer

_BROKER_LOG_LINES = 40
_LONGEST = (
    "test_cases_06_to_13.py",
    "test_cases_01_to_05.py",
    "test_limits.py",
    "test_daemon.py",
    "test_diagnosis.py",
    "test_route.py",
    "test_demo.py",
    "test_simulation.py",
    "test_doctor.py",
    "test_cli.py",
    "test_no_secret_shown.py",
)


# How long an example takes depends on what else the machine does; each test has its time limit.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """Undo what a command's `main` did to logging: it would go on writing to the standard error of its own test."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def in_ci() -> bool:
    """Return whether this is a CI run, where a missing program is a failure and not a reason to skip."""
    return os.environ.get("CI", "").lower() not in {"", "0", "false"}


def skip_or_fail(reason: str) -> None:
    """Skip the running test for this reason; in CI, fail it."""
    if in_ci():
        pytest.fail(f"{reason} (with CI set, nothing may be missing)", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def kafka_programs() -> None:
    """Skip, or in CI fail, what needs Kafka on a machine without Java or Maven."""
    missing = missing_programs()
    if missing:
        skip_or_fail(missing)


@pytest.fixture(scope="session")
def kafka(kafka_programs: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """One broker for all tests of this process: name topics, groups and transactional ids with `unique_name`."""
    del kafka_programs
    with KafkaServer(tmp_path_factory.mktemp("kafka")) as server:
        yield server


@pytest.fixture(scope="session")
def fork_server() -> ForkServer:
    """Give what this test process's daemons are forked from."""
    from testing import daemon_process  # noqa: PLC0415 - it imports much that most tests do without

    return daemon_process.fork_server()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a broker, so that `-m "not kafka"` leaves it out; and put the files that take longest first.

    A file's tests run in one process: one that takes minutes and comes last would leave the others idle.
    """
    for item in items:
        if isinstance(item, pytest.Function) and "kafka_programs" in item.fixturenames:
            item.add_marker(pytest.mark.kafka)
    items.sort(key=lambda item: _LONGEST.index(item.path.name) if item.path.name in _LONGEST else len(_LONGEST))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the broker's own log beside a failed test that used it."""
    report = yield
    server = getattr(item, "funcargs", {}).get("kafka")
    if report.failed and isinstance(server, KafkaServer):
        report.sections.append(("Apache Kafka", server.broker_logs(_BROKER_LOG_LINES)))
    return report
