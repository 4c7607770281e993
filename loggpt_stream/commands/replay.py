"""`loggpt-stream replay`: score files offline through the daemon's own code."""

from __future__ import annotations

from typing import Final

from loggpt_stream.command import Command
from loggpt_stream.history.files import expand
from loggpt_stream.model.manifest import require_bundle
from loggpt_stream.replay.settings import ReplaySettings

_HELP: Final = """\
Score recorded log files offline, through the same code as the daemon, and write alerts as JSON lines.

  loggpt-stream replay --bundle bundle nova-compute.log nova-api.log.gz      alerts on standard output
  loggpt-stream replay --bundle bundle --out alerts.jsonl --scores scores.jsonl /var/log/nova/
  xzcat day.log.xz | loggpt-stream replay --bundle bundle -

Several files are merged by time. At the end of the input every open session closes (close reason end_of_input)."""


def _run(settings: ReplaySettings) -> int:
    require_bundle(settings.bundle)
    expand(settings.inputs)
    from loggpt_stream.replay.replay import replay  # noqa: PLC0415 - PyTorch takes seconds to load

    replay(settings)
    return 0


COMMAND: Final = Command("loggpt-stream replay", _HELP, ReplaySettings, _run)
