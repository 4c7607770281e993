"""`loggpt-stream demo`: the whole path on the recorded logs that ship with the package, in minutes."""

from __future__ import annotations

from typing import Final

from loggpt_stream.command import Command
from loggpt_stream.demo.settings import DemoSettings

_HELP: Final = """\
Train a small model on the first part of a recording of a real Nova 34, calibrate it on the second, and stream the third
through an embedded broker into the daemon, at a multiple of real speed. Alerts show as they are published; a summary
compares them with what really happened, and with what counting ERROR lines would have found.

  loggpt-stream demo                     about three minutes on two cores; results in demo-output/
  loggpt-stream demo --quick             half a minute of training: worse figures, sooner

Ctrl-C at any time ends it and leaves nothing running."""


def _run(settings: DemoSettings) -> int:
    from loggpt_stream.demo.demo import demo  # noqa: PLC0415 - it loads all that the demo shows

    demo(settings)
    return 0


COMMAND: Final = Command("loggpt-stream demo", _HELP, DemoSettings, _run)
