"""`loggpt-stream run`: the daemon as a process."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Final

from loggpt_stream.daemon.service import Daemon
from loggpt_stream.daemon.settings import DaemonSettings
from loggpt_stream.logs import configure, get_logger
from loggpt_stream.model.bundle import load_bundle
from loggpt_stream.settings import load

if TYPE_CHECKING:
    from collections.abc import Sequence

_DESCRIPTION: Final = """\
Read log records from a Kafka topic, gather them to sessions, score closed sessions, publish alerts.

  loggpt-stream run --bundle bundle --kafka.bootstrap broker:9092 --input-topic openstack-logs
  loggpt-stream run --config configs/daemon.yaml
  LOGGPT_KAFKA__PASSWORD=… loggpt-stream run --config /etc/loggpt-stream/daemon.yaml

Run `loggpt-stream doctor` with the same settings first: it says what is missing. SIGTERM finishes what is closed,
commits and exits with 0; whatever was open is read again at the next start. /metrics, /health/live and /health/ready
are on --http-port."""


def main(argv: Sequence[str]) -> int:
    """Run the daemon until SIGTERM or SIGINT; return the exit code."""
    settings = load(DaemonSettings, argv, prog="loggpt-stream run", description=_DESCRIPTION)
    configure(settings.log_format, settings.log_level)
    daemon = Daemon(settings, load_bundle(settings.bundle))
    try:
        asyncio.run(_until_signalled(daemon))
    except ExceptionGroup as failed:
        get_logger(__name__).exception("daemon_failed", errors=[repr(error) for error in failed.exceptions])
        return 1
    return 0


async def _until_signalled(daemon: Daemon) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await daemon.run(stop)
