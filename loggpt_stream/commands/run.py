"""`loggpt-stream run`: the daemon as a process."""

from __future__ import annotations

import gc
import os
import sys
from typing import TYPE_CHECKING, Final

from loggpt_stream.commands.process import run_until_signalled
from loggpt_stream.daemon.service import Daemon
from loggpt_stream.daemon.settings import DaemonSettings
from loggpt_stream.errors import UserError
from loggpt_stream.logs import configure, shown
from loggpt_stream.model.bundle import load_bundle
from loggpt_stream.model.detector import Detector
from loggpt_stream.model.gpt import choose_device
from loggpt_stream.settings import load

if TYPE_CHECKING:
    from collections.abc import Sequence

_DESCRIPTION: Final = """\
Read log records from a Kafka topic, gather them to sessions, score closed sessions, publish alerts.

  loggpt-stream run --bundle bundle --kafka.bootstrap broker:9092 --input-topic openstack-logs
  loggpt-stream run --config configs/daemon.yaml
  LOGGPT_KAFKA__PASSWORD=… loggpt-stream run --config /etc/loggpt-stream/daemon.yaml

Run `loggpt-stream doctor` with the same settings first: it says what is missing. SIGTERM finishes what is closed,
commits and exits with 0; what is open is in the state topic, and the next start goes on from there. /metrics,
/health/live and /health/ready are on --http-port."""


def main(argv: Sequence[str]) -> int:
    """Run the daemon until SIGTERM or SIGINT; return the exit code."""
    settings = load(DaemonSettings, argv, prog="loggpt-stream run", description=_DESCRIPTION)
    configure(settings.log_format, settings.log_level)
    # Sessions are many long-lived objects without cycles: Python's default would look for garbage 14 times as often.
    gc.set_threshold(10_000, 10, 10)
    bundle = load_bundle(settings.bundle, key=settings.bundle_key)
    device = choose_device(settings.device)
    daemon = Daemon(settings, Detector.load(bundle, device, batch_tokens=settings.batch_tokens, shape=settings.shape))
    try:
        code = run_until_signalled(daemon.run, failed="daemon_failed")
    except UserError as error:
        if not daemon.scorer_busy:
            raise
        print(shown(f"error: {error}", keep="\n"), file=sys.stderr, flush=True)
        code = 2
    if daemon.scorer_busy:
        os._exit(code)  # a thread cannot be ended, and one that hangs would be waited for
    return code
