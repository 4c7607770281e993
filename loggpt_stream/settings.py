"""Settings: flags > LOGGPT_* environment > YAML file > defaults, one class a command, checked before anything starts.

`load` turns every mistake into a `UserError` that names the key, the value and what would be right. Secrets are
`SecretStr`: they show as asterisks in any repr or log.
"""

from __future__ import annotations

import argparse
import difflib
import os
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

import yaml
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
    from collections.abc import Sequence

ENV_PREFIX: Final = "LOGGPT_"
ENV_NESTED: Final = "__"
# Keys of commands other than the one that runs are no mistake in its environment; a test keeps this list whole.
KNOWN_KEYS: Final = frozenset(
    """
    acks again alert_topic alerts_per_day anomaly_column background batch_tokens batch_wait_s bundle bundle_key
    clock_speed cluster commit_interval_s compression concurrency config contamination cost_false_alarm cost_miss
    create_topics dead_letter_topic device drift dry_run duration_s early early_every_s early_false_alarm_rate
    exclude failure_share false_alarm_rate format from from_offset from_time group group_column held_out http_host
    http_port input_topic inputs instance_id kafka key_order kinds labels limit lines log_format log_level
    max_minutes max_open_lines max_open_mb max_open_sessions max_pending_sessions max_waiting_mb model out output
    output_topic partition partitions quick rate reading reason report resume score_timeout_s score_topic scores
    search search_minutes search_trials seed select session_timeout_s sessions shape shutdown_grace_s speed splits
    start state_format state_topic stuck_after_s test_cache threads time_scale to to_offset tokenizer topic training
    transaction_timeout_s truth unkeyed validation validation_fraction
    """.split()  # noqa: SIM905 - a list of a word a line would be sixty lines
)

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
        from_file = (YamlConfigSettingsSource(settings_cls, yaml_file=file),) if file else ()
        return (init_settings, env_settings, *from_file)


SettingsT = TypeVar("SettingsT", bound=Settings)


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the layout of descriptions and examples."""

    width: ClassVar[int] = 110

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=self.width, max_help_position=40)


def load(cls: type[SettingsT], argv: Sequence[str], *, prog: str, description: str) -> SettingsT:
    """Return the settings of a command from its flags, the environment, its YAML file and the defaults.

    `description` heads the `--help` text. Raises `UserError` naming each wrong key, its value and what would be right;
    `SystemExit` from argparse for `--help` and for malformed flags.
    """
    _refuse_unknown_environment(cls)
    parser = argparse.ArgumentParser(prog=prog, description=description, formatter_class=_Formatter, allow_abbrev=False)
    try:
        flags: Any = CliSettingsSource(
            cls,
            root_parser=parser,
            cli_prog_name=prog,
            cli_parse_args=list(argv),
            cli_kebab_case=True,
            cli_implicit_flags=True,
            cli_hide_none_type=True,
            cli_avoid_json=True,
            formatter_class=_Formatter,
        )
    except SettingsError:
        # Its message shows what it could not read, which may be a secret.
        raise UserError(f"{prog}: a flag's value cannot be read; a group is given as KEY=VALUE. See --help.") from None
    named = flags().get("config") or os.environ.get(f"{ENV_PREFIX}CONFIG")
    token = _yaml_file.set(_readable(Path(named)) if named else None)
    try:
        return cls(_cli_settings_source=flags)
    except ValidationError as error:
        raise UserError("\n".join(_sentence(cls, each) for each in error.errors(include_url=False))) from None
    except SettingsError as error:  # a group of settings given as text that is no JSON
        raise UserError(f"environment: {error}") from None
    finally:
        _yaml_file.reset(token)


def _readable(file: Path) -> Path:
    """Return `file` if it is one of settings. No message quotes it: a password may stand there."""
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
    known = {*cls.model_fields, *KNOWN_KEYS}
    for variable in os.environ:
        if variable.startswith(ENV_PREFIX):
            key = variable[len(ENV_PREFIX) :].lower().split(ENV_NESTED)[0]
            if key not in known:
                raise UserError(f"environment variable {variable}: no such setting{_like(key, known)}")


def _sentence(cls: type[BaseModel], error: Any) -> str:  # noqa: ANN401 - pydantic's ErrorDetails
    path = [str(part) for part in error["loc"]]
    key = ".".join(path)
    if error["type"] == "extra_forbidden":
        return f"{key}: no such setting{_like(path[-1], _siblings(cls, path))}"
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


def _like(key: str, known: Sequence[str] | set[str]) -> str:
    close = difflib.get_close_matches(key, sorted(known), n=1)
    return f"; did you mean {close[0]}?" if close else f"; there are: {', '.join(sorted(known))}"
