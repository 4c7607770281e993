"""What several tests of the fault suite's harness use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from faults.cluster import cluster
from faults.trial import Bench
from testing.tiny_bundle import tiny_bundle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from loggpt_stream.model.bundle import Bundle
    from testing.fork_server import ForkServer


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Every session is above both thresholds: each one yields an alert, and an early one if it is seen while open."""
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "bundle", steps=5, alert_share=1.0, early_share=1.0)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bench(
    kafka_programs: None, tmp_path_factory: pytest.TempPathFactory, fork_server: ForkServer, bundle: Bundle
) -> AsyncIterator[Bench]:
    del kafka_programs
    folder = tmp_path_factory.mktemp("cases")
    async with cluster(folder / "kafka") as brokers:
        yield Bench(folder, brokers, fork_server, bundle)
