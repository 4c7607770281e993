"""`loggpt-stream dead-letters`: look at what the daemon could not read, understand it, and put it back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from loggpt_stream.command import Command, Commands
from loggpt_stream.dead_letters.settings import ListSettings, PickSettings, ReinjectSettings

if TYPE_CHECKING:
    from types import ModuleType

_HELP: Final = """\
Records that hold no log event go to the dead letter topic: as they came, with the reason and where they came from.

  loggpt-stream dead-letters explain --config configs/daemon.yaml     how many of each reason, what it means, what to do
  loggpt-stream dead-letters list --config configs/daemon.yaml        one by one, newest last
  loggpt-stream dead-letters reinject --config configs/daemon.yaml    back to the input topic, once the cause is mended

Each reads the daemon's own file and environment, and picks with --reason, --partition, --from-offset and --to-offset.
Each has a --help with examples."""

_LIST_HELP: Final = """\
Show the newest dead letters, newest last: where each lies, when it was written, where its record came from, why it was
refused, and how it begins, with everything escaped that a terminal could act on.

  loggpt-stream dead-letters list --config configs/daemon.yaml
  loggpt-stream dead-letters list --config configs/daemon.yaml --reason bad_json --limit 200
  loggpt-stream dead-letters list --config configs/daemon.yaml --partition 0 --from-offset 1200 --to-offset 1300

The last column says what became of it: `put back`, or `failed again`, with the dead letter that it was before."""

_EXPLAIN_HELP: Final = """\
Sum the dead letters up by reason: how many, first and last seen, what the reason means, what to do, and an example.

  loggpt-stream dead-letters explain --config configs/daemon.yaml
  loggpt-stream dead-letters explain --config configs/daemon.yaml --reason no_text --partition 2"""

_REINJECT_HELP: Final = """\
Write dead letters back to the topic that they came from, for the daemon to read again. Mend the cause first.

  loggpt-stream dead-letters reinject --config configs/daemon.yaml --reason other_shape --dry-run
  loggpt-stream dead-letters reinject --config configs/daemon.yaml --reason other_shape
  loggpt-stream dead-letters reinject --config configs/daemon.yaml --partition 0 --from-offset 1200 --to-offset 1300

Each is put back exactly once, however often this is run and whatever interrupts it: record and the mark that it was put
back (a record in the dead letter topic, header loggpt_reinjected) are one transaction, with the transactional id
GROUP-INPUT_TOPIC-reinject. It gets its old partition, key, timestamp and headers, and loggpt_reinjected_from with the
place of the dead letter. A record that fails again is a new dead letter with that header, shown by `list`; it is passed
over unless --again is given, so that nothing goes in circles. The daemon reads it where it stands now: if its session
has closed meanwhile, the line makes a session of its own.

What came through loggpt-stream route has the topic that the router reads for its own, and gets its key there:

  loggpt-stream dead-letters reinject --config configs/daemon.yaml --input-topic openstack-logs-raw

Refused, and said so: a record that was cut (it was larger than a dead letter may be), one without a value, one that
came from another topic than --input-topic. Exits with 1 where one was refused."""


def _show() -> ModuleType:
    """Return the module that shows dead letters, which loads aiokafka."""
    from loggpt_stream.dead_letters import show  # noqa: PLC0415 - see above
    from loggpt_stream.logs import configure  # noqa: PLC0415

    configure(level="error")
    return show


def _list(settings: ListSettings) -> int:
    return int(asyncio.run(_show().list_letters(settings)))


def _explain(settings: PickSettings) -> int:
    return int(asyncio.run(_show().explain_letters(settings)))


def _reinject(settings: ReinjectSettings) -> int:
    return int(asyncio.run(_show().put_letters_back(settings)))


COMMAND: Final = Commands(
    "loggpt-stream dead-letters",
    _HELP,
    {
        "list": lambda: Command("loggpt-stream dead-letters list", _LIST_HELP, ListSettings, _list),
        "explain": lambda: Command("loggpt-stream dead-letters explain", _EXPLAIN_HELP, PickSettings, _explain),
        "reinject": lambda: Command("loggpt-stream dead-letters reinject", _REINJECT_HELP, ReinjectSettings, _reinject),
    },
)
