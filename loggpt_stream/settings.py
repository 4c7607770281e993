"""Settings: flags > LOGGPT_* environment > YAML file > defaults, one class a command, checked before anything starts.

`load` turns every mistake into a `UserError` that names the key, the value and what would be right. Secrets are
`SecretStr`: they show as asterisks in any repr or log.

Commands share one environment and, where somebody wants it, one file: a key of another command is no mistake, a key of
none is. Every settings class stands in a module named `settings`, which is where the keys of all commands are found;
such a module imports nothing that takes long to load.
"""

from __future__ import annotations

import argparse
import difflib
import functools
import os
import pkgutil
import re
from contextvars import ContextVar
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    YamlConfigSettingsSource,
)

from loggpt_stream.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

ENV_PREFIX: Final = "LOGGPT_"
ENV_NESTED: Final = "__"
_PACKAGES: Final = ("loggpt_stream", "trainer", "calibrate")

_yaml_file: ContextVar[Path | None] = ContextVar("_yaml_file", default=None)


class Section(BaseModel):
    """A group of settings: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Settings(BaseSettings):
    """Base of every command's settings."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter=ENV_NESTED,
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )
    config: Path | None = Field(None, description="YAML file of settings; flags and LOGGPT_* variables win over it")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic's
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic's
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources: what code gives, flags (put first by pydantic), environment, YAML."""
        file = _yaml_file.get()
        from_file = (_SharedFile(settings_cls, yaml_file=file),) if file else ()
        return (init_settings, env_settings, *from_file)


SettingsT = TypeVar("SettingsT", bound=Settings)


class _SharedFile(YamlConfigSettingsSource):
    """A YAML file that other commands read too: their keys are left to them."""

    def __call__(self) -> dict[str, Any]:
        mine = _keys(self.settings_cls)
        return {key: value for key, value in super().__call__().items() if key in mine or key not in keys_of_all()}


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the layout of descriptions and examples."""

    width: ClassVar[int] = 110

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=self.width, max_help_position=40)

    def add_argument(self, action: argparse.Action) -> None:
        """Take a flag. Choices are shown as they are written in files and documents."""
        if isinstance(action.metavar, str) and action.metavar.startswith("{"):
            action.metavar = action.metavar.lower()
        super().add_argument(action)

    def _expand_help(self, action: argparse.Action) -> str:
        # What stands for a default that is none is in the description, in words; an enum's default is shown as written.
        shown = super()._expand_help(action).replace(" (default: None)", "")
        return re.sub(r"\(default: [A-Z]+\)$", lambda found: found[0].lower(), shown)


class Parser(argparse.ArgumentParser):
    """Tells a mistake in the flags as any other mistake is told, and shows no value: it may be a secret."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog, f"{prog} [flags]", description, formatter_class=_Formatter, allow_abbrev=False)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:  # noqa: ANN401 - argparse's
        """Return what the flags say. Raises `UserError` for what is no flag."""
        parsed, rest = self.parse_known_args(args, namespace)
        for word in rest:
            flag = word.partition("=")[0]
            if flag.startswith("-"):
                self.error(f"{flag}: no such flag{_close(flag, self._option_string_actions)}")
        if rest:
            self.error(f"{len(rest)} more argument{'s' * (len(rest) > 1)} than this command takes")
        return parsed

    def error(self, message: str) -> NoReturn:
        """Raise `UserError`."""
        stop = "" if message.endswith("?") else "."
        raise UserError(f"{message}{stop} See {self.prog} --help")


def load(
    cls: type[SettingsT],
    argv: Sequence[str],
    *,
    prog: str,
    description: str,
    must_suit: type[Settings] | None = None,
) -> SettingsT:
    """Return the settings of a command from its flags, the environment, its YAML file and the defaults.

    `description` heads the `--help` text. `must_suit`: settings of another command that the same environment and file
    are for: what it would refuse is refused here. Raises `UserError` naming each wrong key, its value and what would be
    right; `SystemExit` from argparse for `--help`.
    """
    _refuse_unknown_environment(cls)
    try:
        flags: Any = add_flags(Parser(prog, description), cls, list(argv))
    except SettingsError:
        # Its message shows what it could not read, which may be a secret.
        raise UserError(f"{prog}: a flag's value cannot be read; a group is given as KEY=VALUE. See --help.") from None
    named = flags().get("config") or os.environ.get(f"{ENV_PREFIX}CONFIG")
    token = _yaml_file.set(_readable(Path(named)) if named else None)
    try:
        settings = cls(_cli_settings_source=flags)
        if must_suit is not None:
            common = cls.model_fields.keys() & must_suit.model_fields.keys()
            must_suit(**{name: getattr(settings, name) for name in common})
    except ValidationError as error:
        raise UserError("\n".join(_sentence(cls, each) for each in error.errors(include_url=False))) from None
    except SettingsError as error:  # a group of settings given as text that is no JSON
        raise UserError(f"environment: {error}") from None
    finally:
        _yaml_file.reset(token)
    return settings


def add_flags(
    parser: argparse.ArgumentParser, cls: type[SettingsT], argv: list[str] | None = None
) -> CliSettingsSource[Any]:
    """Give a parser the flags of settings, and return what `argv` says (None: parse nothing)."""
    return CliSettingsSource(
        cls,
        root_parser=parser,
        parse_args_method=Parser.parse_args,
        cli_prog_name=parser.prog,
        cli_parse_args=argv,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        formatter_class=_Formatter,
    )


@functools.cache
def keys_of_all() -> frozenset[str]:
    """Return the keys of every command's settings. It loads all their modules: only an unknown key is worth that."""
    for package in _PACKAGES:
        for found in pkgutil.walk_packages(import_module(package).__path__, f"{package}."):
            if found.name.endswith(".settings"):
                import_module(found.name)
    ours = (each for each in _subclasses(Settings) if each.__module__.partition(".")[0] in _PACKAGES)
    return frozenset().union(*(_keys(each) for each in ours))


def _subclasses(of: type[Settings]) -> Iterator[type[Settings]]:
    for each in of.__subclasses__():
        yield each
        yield from _subclasses(each)


def _keys(cls: type[BaseSettings]) -> set[str]:
    aliases = {field.alias for field in cls.model_fields.values() if field.alias}
    return {*cls.model_fields, *aliases}


def _readable(file: Path) -> Path:
    """Return `file` if it is one of settings. No message quotes it: a password may stand there."""
    import yaml  # noqa: PLC0415 - a tenth of a second, where there is a file

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise UserError(f"--config {file}: {reason}. There are commented examples in configs/.") from None
    except UnicodeDecodeError:
        raise UserError(f"--config {file}: is no UTF-8 text") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(f"--config {file}{place}: is no YAML; a value with special characters needs quotes") from None
    if content is not None and not (isinstance(content, dict) and all(isinstance(name, str) for name in content)):
        raise UserError(f"--config {file}: holds no settings; write them as `name: value`, one a line")
    return file


def _refuse_unknown_environment(cls: type[Settings]) -> None:
    mine = _keys(cls)
    for variable in os.environ:
        if variable.startswith(ENV_PREFIX):
            key = variable[len(ENV_PREFIX) :].lower().split(ENV_NESTED)[0]
            if key not in mine and key not in keys_of_all():
                raise UserError(f"environment variable {variable}: no such setting{_like(key, mine)}")


def _sentence(cls: type[BaseModel], error: Any) -> str:  # noqa: ANN401 - pydantic's ErrorDetails
    path = [str(part) for part in error["loc"]]
    key = ".".join(path)
    if error["type"] == "extra_forbidden":
        return f"{key}: no such setting{_like(path[-1], _siblings(cls, path), nested=len(path) > 1)}"
    if error["type"] == "missing":
        variable = ENV_PREFIX + key.upper().replace(".", ENV_NESTED)
        return f"{key}: is required: give --{key.replace('_', '-')}, {variable} or {key} in the YAML file"
    # Only plain values are shown: a group of settings, or all of them, may hold a secret.
    plain = isinstance(error["input"], str | int | float | None)
    shown = plain and "password" not in key and "secret" not in error["type"]
    value = f"{key} = {error['input']!r}: " if shown else f"{key}: " if key else ""
    return value + str(error["msg"]).removeprefix("Value error, ")


def _siblings(cls: type[BaseModel], path: list[str]) -> list[str]:
    model: Any = cls
    for part in path[:-1]:
        field = getattr(model, "model_fields", {}).get(part)
        model = field.annotation if field else None
    return list(getattr(model, "model_fields", {}))


def _like(key: str, mine: Iterable[str], *, nested: bool = False) -> str:
    known = mine if nested else {*mine, *keys_of_all()}
    return _close(key, known) or f"; there are: {', '.join(sorted(mine))}"


def _close(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, sorted(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""
