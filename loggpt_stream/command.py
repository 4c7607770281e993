"""A command of one of our programs, and several under one name: help, settings, and the function that takes them."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic

from loggpt_stream.errors import UserError
from loggpt_stream.settings import Settings, SettingsT, load

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


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
