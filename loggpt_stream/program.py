"""Our programs: the commands that each has, and what becomes of an error, in one place for all of them."""

from __future__ import annotations

import difflib
import os
import select
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic

from loggpt_stream import __version__
from loggpt_stream.errors import UserError
from loggpt_stream.settings import Settings, SettingsT, load
from loggpt_stream.terminal import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_COMPLETING: Final = "_ARGCOMPLETE"  # set by the shell, while somebody presses the tab key
_MISTAKE: Final = 2
_INTERRUPTED: Final = 130
_NOBODY_READS: Final = 141  # what a shell says of a process that SIGPIPE ended


@dataclass(frozen=True, slots=True)
class Command(Generic[SettingsT]):
    """A command: its name in messages, its help, its settings, and the function that takes them.

    must_suit: other settings that its file and environment are for, and so must fit too. The function imports what
    takes long to load, so that a mistake in the settings is told at once. It returns the exit code.
    """

    prog: str
    description: str
    settings: type[SettingsT]
    run: Callable[[SettingsT], int]
    must_suit: type[Settings] | None = None

    def main(self, argv: Sequence[str]) -> int:
        """Run it with these flags. Raises `UserError`; `SystemExit` for --help."""
        return self.run(
            load(self.settings, argv, prog=self.prog, description=self.description, must_suit=self.must_suit)
        )


@dataclass(frozen=True, slots=True)
class Commands:
    """Several commands under one name. Each is made when it is asked for: none pays for the others.

    default: the command that is meant where none is named, and the first word is a flag or a file.
    """

    prog: str
    description: str
    commands: Mapping[str, Callable[[], Command[Any] | Commands]]
    default: str | None = None

    def main(self, argv: Sequence[str]) -> int:
        """Run the command that the first word names. Raises `UserError` where there is none of that name."""
        name, *rest = argv or ["--help"]
        if name in self.commands:
            return self.commands[name]().main(rest)
        if name == "help":
            name = "--help"
        close = difflib.get_close_matches(name, self.commands, n=1)
        if self.default is not None and not (close and not Path(name).exists()):
            return self.commands[self.default]().main([name, *rest])
        if name in ("--help", "-h"):
            print(self.description)
            return 0
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(self.commands)}."
        raise UserError(f"no command {name!r}; {hint} See {self.prog} --help")


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
