"""A daemon that ends while a test waits for it fails that test with what the daemon said last; half a line is none."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from testing.daemon_process import DaemonProcess

if TYPE_CHECKING:
    from pathlib import Path

# It says where its metrics are, where nobody listens, and ends.
SHORT_LIVED = """
import sys
print('{"event": "daemon_starting", "http_port": 1}', file=sys.stderr)
print("no more memory", file=sys.stderr)
print('{"event": "half wri', file=sys.stderr, end="")
sys.exit(3)
"""


def short_lived(arguments: list[str], log_path: Path) -> subprocess.Popen[bytes]:
    del arguments
    with log_path.open("wb") as log:
        return subprocess.Popen([sys.executable, "-c", SHORT_LIVED], stderr=log)


async def test_who_waits_for_a_metric_of_one_that_ended_is_shown_its_exit_code_and_its_log(tmp_path: Path) -> None:
    with (
        DaemonProcess(tmp_path, [], start=short_lived) as daemon,
        pytest.raises(AssertionError, match=r"loggpt_records_total is None, not 1; exit code 3; (?s:.*)no more memory"),
    ):
        await daemon.reached("loggpt_records_total", 1)
    assert [each["event"] for each in daemon.events()] == ["daemon_starting"]
