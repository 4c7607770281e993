"""What the tests of the test tools share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from testing.tiny_bundle import tiny_bundle

if TYPE_CHECKING:
    from loggpt_stream.model.bundle import Bundle


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Every session is above the threshold."""
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "bundle", steps=5, alert_share=1.0)
