"""What becomes of an error, a Ctrl-C or a closed pipe: one place for all our programs."""

from __future__ import annotations

import os
import select
import sys
from typing import TYPE_CHECKING, Any, Final

from loggpt_stream import __version__
from loggpt_stream.errors import UserError
from loggpt_stream.terminal import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loggpt_stream.command import Command, Commands

_COMPLETING: Final = "_ARGCOMPLETE"  # set by the shell, while somebody presses the tab key
_MISTAKE: Final = 2
_INTERRUPTED: Final = 130
_NOBODY_READS: Final = 141  # what a shell says of a process that SIGPIPE ended


def run_program(program: Command[Any] | Commands, argv: Sequence[str] | None = None, *, interrupted: str = "") -> int:
    """Run a program with `argv` (default: the process's); return the exit code.

    A mistake of the user is one sentence and 2. Ctrl-C is 130, and `interrupted` is said. Where nobody reads the output
    any more, as with `| head`, it ends in silence. Anything else is a mistake of ours: it passes through, and Python
    ends with a traceback and 1.
    """
    if _COMPLETING in os.environ:
        from loggpt_stream.completion import complete  # noqa: PLC0415 - only while the tab key is pressed

        complete(program)
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        try:
            if words[:1] in (["--version"], ["-V"]):
                print(program.prog, __version__)
                return 0
            return program.main(words)
        finally:
            sys.stdout.flush()
    except UserError as error:
        return tell_mistake(error)
    except KeyboardInterrupt:
        if interrupted:
            print(interrupted, file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        return _NOBODY_READS


def tell_mistake(error: UserError) -> int:
    """Say what the user can put right; return the exit code."""
    print(shown(f"error: {error}", keep="\n"), file=sys.stderr, flush=True)
    return _MISTAKE


def _nobody_reads() -> bool:
    """Tell whether standard output is what broke. Then turn it to nowhere: Python flushes it once more at its end."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):  # a test's, in memory
        return False
    poll = select.poll()
    poll.register(descriptor, select.POLLERR)
    if not poll.poll(0):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
    return True
