"""The `loggpt-stream` command: which subcommand runs."""

from __future__ import annotations

import signal
import sys
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from loggpt_stream import __version__
from loggpt_stream.command import Command, Commands
from loggpt_stream.program import run_program

if TYPE_CHECKING:
    from collections.abc import Sequence

_HELP: Final = f"""\
loggpt-stream {__version__}: finds abnormal sessions in OpenStack logs

  loggpt-stream run        the daemon: log records from Kafka in, alerts to Kafka out
  loggpt-stream route      give each record its session as key, exactly once, where the shippers cannot
  loggpt-stream replay     score log files offline through the same code, alerts as JSON lines
  loggpt-stream simulate   make load: recorded OpenStack sessions with fresh ids, hosts and times
  loggpt-stream doctor     check bundle, device, Kafka and the input, with a remedy for each finding; create topics
  loggpt-stream dead-letters  records that could not be read: list and explain them, put them back
  loggpt-stream demo       train, calibrate, stream and alert on the logs that ship with the package, in minutes
  loggpt-stream completion  what a shell reads so that the tab key completes commands and flags

Each has a --help with examples. What the daemon loads is made by two more commands:

  loggpt-train             learn normal behaviour from unlabelled logs
  loggpt-calibrate         choose the threshold, and say what false-alarm rate to expect

New here? Run `loggpt-stream demo`. On your own logs:

  loggpt-train --out bundle /var/log/nova/
  loggpt-calibrate --bundle bundle --held-out /var/log/nova/
  loggpt-stream replay --bundle bundle /var/log/nova/nova-compute.log
  loggpt-stream doctor --bundle bundle --kafka.bootstrap broker:9092 --create-topics
  loggpt-stream run --bundle bundle --kafka.bootstrap broker:9092 --input-topic openstack-logs

A setting is looked for in this order: flag, LOGGPT_* variable (LOGGPT_KAFKA__BOOTSTRAP), --config FILE (see configs/),
default. --version prints the version.
"""

# Each is imported when it runs.
_COMMANDS: Final = {
    "run": "loggpt_stream.commands.run",
    "replay": "loggpt_stream.commands.replay",
    "simulate": "loggpt_stream.commands.simulate",
    "route": "loggpt_stream.commands.route",
    "doctor": "loggpt_stream.commands.doctor",
    "dead-letters": "loggpt_stream.commands.dead_letters",
    "demo": "loggpt_stream.commands.demo",
    "completion": "loggpt_stream.commands.completion",
}


def _command(name: str) -> Command[Any] | Commands:
    command: Command[Any] | Commands = import_module(_COMMANDS[name]).COMMAND
    return command


PROGRAM: Final = Commands("loggpt-stream", _HELP, {name: partial(_command, name) for name in _COMMANDS})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the subcommand that `argv` (default: the process's) names; return the exit code."""
    if argv is None and sys.argv[1:2] in (["run"], ["route"]):
        # PyTorch takes seconds to load, and PID 1 of a container ignores what it does not handle.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    return run_program(PROGRAM, argv)
