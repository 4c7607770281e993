"""`loggpt-stream run`: the daemon."""

from __future__ import annotations

from typing import Final

from loggpt_stream.command import Command
from loggpt_stream.daemon.settings import DaemonSettings
from loggpt_stream.model.manifest import require_bundle

_HELP: Final = """\
Read log records from a Kafka topic, gather them to sessions, score closed sessions, publish alerts.

  loggpt-stream run --bundle bundle --kafka.bootstrap broker:9092 --input-topic openstack-logs
  loggpt-stream run --config configs/daemon.yaml
  LOGGPT_KAFKA__PASSWORD=… loggpt-stream run --config /etc/loggpt-stream/daemon.yaml

Run `loggpt-stream doctor` with the same settings first: it says what is missing. On SIGTERM the daemon
scores the closed sessions, commits and exits with 0. Open sessions are in the state topic: the next start goes on with
them. /metrics, /health/live and /health/ready are on --http-port."""


def _run(settings: DaemonSettings) -> int:
    require_bundle(settings.bundle)
    from loggpt_stream.daemon.process import run_daemon  # noqa: PLC0415 - PyTorch takes seconds to load

    return run_daemon(settings)


COMMAND: Final = Command("loggpt-stream run", _HELP, DaemonSettings, _run)
