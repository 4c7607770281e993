"""`loggpt-stream doctor`: would the daemon start here, and if not, what to do."""

from __future__ import annotations

from typing import Final

from loggpt_stream.checks.doctor import examine
from loggpt_stream.checks.settings import DoctorSettings
from loggpt_stream.command import Command
from loggpt_stream.daemon.settings import DaemonSettings

_HELP: Final = """\
Check what the daemon needs, with the daemon's own settings, and say what to do about each finding.

  loggpt-stream doctor --config configs/daemon.yaml
  loggpt-stream doctor --config configs/daemon.yaml --create-topics --partitions 8

On this machine: bundle, device, HTTP port. In Kafka: brokers and version; whether the group may be joined and
transactions be used; whether the topics exist and keep what they are given (partitions, compaction, replicas, retention
against the longest session); who is in the group and how far behind it is. In the newest records of the input: whether
a session's lines are on one partition, how many belong to no session, which shapes they have, what is undecodable, and
whether clocks run ahead. Nothing is written but an empty, aborted transaction.

--create-topics first makes the topics that are missing: the state topic compacted and with as many partitions as the
input; the input with --partitions (4), if it is missing too; each with up to 3 replicas, of which 2 in sync. What
exists is left as it is.

Exits with 1 where there is a failure: the daemon would not start, or would lose or mistake something. A warning is
worth a look."""

COMMAND: Final = Command("loggpt-stream doctor", _HELP, DoctorSettings, examine, must_suit=DaemonSettings)
