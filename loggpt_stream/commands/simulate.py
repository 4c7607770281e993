"""`loggpt-stream simulate`: make load."""

from __future__ import annotations

from typing import Final

from loggpt_stream.command import Command
from loggpt_stream.simulator.settings import SimulateSettings

_HELP: Final = """\
Make any amount of load: recorded OpenStack sessions, replayed with fresh ids, hosts and times.

  loggpt-stream simulate --sessions 500 --output load.log                  as text, with load.log.truth.csv beside it
  loggpt-stream simulate --rate 200 --duration-s 3600 --output kafka:openstack-logs --kafka.bootstrap broker:9092
  loggpt-stream simulate --format oslo_json --failure-share 0.02 --lines 1000000 --output - | zstd > load.jsonl.zst

What is replayed is the two recordings of a real Nova that ship with the package, 194 of their 1,150 instances failed.
Order and gaps inside a session stay; sessions overlap as --concurrency says. The same --seed and a fixed --start
give the same bytes. No session starts once a limit is reached; those that have started run to their end."""


def _run(settings: SimulateSettings) -> int:
    from loggpt_stream.simulator.simulate import simulate  # noqa: PLC0415 - it loads aiokafka

    simulate(settings)
    return 0


COMMAND: Final = Command("loggpt-stream simulate", _HELP, SimulateSettings, _run)
