"""One command's environment variable is no mistake for another: the list of all keys is whole."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from loggpt_stream.settings import KNOWN_KEYS, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMANDS = (
    "loggpt_stream.commands.run",
    "loggpt_stream.commands.replay",
    "loggpt_stream.commands.route",
    "loggpt_stream.commands.doctor",
    "loggpt_stream.commands.dead_letters",
    "loggpt_stream.commands.demo",
    "loggpt_stream.commands.simulate",
    "trainer.cli",
    "calibrate.cli",
)


def settings_classes(of: type[Settings]) -> Iterator[type[Settings]]:
    for each in of.__subclasses__():
        yield each
        yield from settings_classes(each)


def test_every_setting_of_every_command_is_known() -> None:
    for command in COMMANDS:
        import_module(command)
    ours = [each for each in settings_classes(Settings) if each.__module__.split(".")[0] != "tests"]
    assert len(ours) >= 6
    for each in ours:
        assert set(each.model_fields) - KNOWN_KEYS == set(), each
