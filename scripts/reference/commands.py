"""The page of all commands: what each prints for `--help`."""

from __future__ import annotations

from scripts.reference.markdown import page
from scripts.reference.programs import PROGRAMS


def commands_page() -> str:
    """Return the page of all commands."""
    return page(
        "Commands",
        "What every command prints for `--help`, its long usage line left out.",
        "Every flag is described with its variable and YAML key in [settings](settings.md).",
        *(f"## {program.name}\n\n```text\n{program.help()}\n```" for program in PROGRAMS),
    )
