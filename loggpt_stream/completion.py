"""Completion of commands and flags in bash, zsh and fish, by argcomplete.

The shell runs the program itself to ask it. So only the parser of the command that stands on the line is made.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import argcomplete
from argcomplete.completers import FilesCompleter
from argcomplete.lexers import split_line
from argcomplete.shell_integration import shellcode

from loggpt_stream.command import Command
from loggpt_stream.settings import Parser, add_flags

if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Sequence

    from loggpt_stream.command import Commands

PROGRAMS: Final = ("loggpt-stream", "loggpt-train", "loggpt-calibrate")


def shell_code(shell: str) -> str:
    """Return what a shell has to read once, so that the tab key completes all our programs."""
    return str(shellcode(PROGRAMS, shell=shell))


def complete(program: Command[Any] | Commands) -> None:
    """Answer the shell, and end the process."""
    line = os.environ["COMP_LINE"]
    _, _, _, words, _ = split_line(line, int(os.environ["COMP_POINT"]))
    parser = Parser(program.prog, "")
    # What stands before it on the line, such as `python -m`, is no word of ours.
    _fill(parser, program, words[int(os.environ["_ARGCOMPLETE"]) :])
    argcomplete.autocomplete(parser, default_completer=FilesCompleter())


def _fill(parser: ArgumentParser, program: Command[Any] | Commands, words: Sequence[str]) -> None:
    """Give a parser the flags of the command that the words name, or else the names that there are."""
    if isinstance(program, Command):
        add_flags(parser, program.settings)
        return
    named = words[0] if words and words[0] in program.commands else None
    if named is not None or not words:
        children = parser.add_subparsers()
        for name in program.commands:
            child = children.add_parser(name, description="")
            if name == named:
                _fill(child, program.commands[name](), words[1:])
    if named is None and program.default is not None:
        _fill(parser, program.commands[program.default](), words)
