"""`loggpt-stream completion`: let the shell complete commands and flags."""

from __future__ import annotations

from functools import partial
from typing import Final

from loggpt_stream.command import Command, Commands
from loggpt_stream.settings import Settings

_HELP: Final = """\
Print what your shell has to read once, so that the tab key completes the commands and flags of loggpt-stream,
loggpt-train and loggpt-calibrate.

  echo 'eval "$(loggpt-stream completion bash)"' >> ~/.bashrc
  echo 'eval "$(loggpt-stream completion zsh)"' >> ~/.zshrc            behind the line that calls compinit
  loggpt-stream completion fish > ~/.config/fish/completions/loggpt-stream.fish

Then open a new shell."""
_SHELLS: Final = ("bash", "zsh", "fish")


def _print(shell: str, _: Settings) -> int:
    from loggpt_stream.completion import shell_code  # noqa: PLC0415 - only here

    print(shell_code(shell))
    return 0


def _command(shell: str) -> Command[Settings]:
    return Command(f"loggpt-stream completion {shell}", _HELP, Settings, partial(_print, shell))


COMMAND: Final = Commands("loggpt-stream completion", _HELP, {shell: partial(_command, shell) for shell in _SHELLS})
