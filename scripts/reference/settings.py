"""The page of all settings: read from the settings classes of all commands."""

from __future__ import annotations

import types
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel, SecretStr
from pydantic_core import PydanticUndefined
from pydantic_settings import CliPositionalArg

from loggpt_stream.settings import ENV_NESTED, ENV_PREFIX
from scripts.reference.markdown import code, codes, page, prose, table
from scripts.reference.programs import PROGRAMS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pydantic.fields import FieldInfo

_PLAIN: Final[dict[object, str]] = {
    str: "text",
    bool: "true or false",
    int: "whole number",
    float: "number",
    Path: "path",
    SecretStr: "secret text",
    datetime: "ISO time",
    dict: "NAME=VALUE, any number",
}
_BOUNDS: Final = (
    (annotated_types.Gt, "gt", ">"),
    (annotated_types.Ge, "ge", "≥"),
    (annotated_types.Lt, "lt", "<"),
    (annotated_types.Le, "le", "≤"),
)
# Commands with actions.
_FAMILIES: Final = (["loggpt-stream", "dead-letters"], ["loggpt-calibrate"])
_POSITIONAL: Final = get_args(CliPositionalArg[str])[1]

_HOW: Final = """\
Each setting can be given in three ways; the first that is there wins:

1. a flag: `--batch-tokens 4096`,
2. an environment variable: `LOGGPT_BATCH_TOKENS=4096`,
3. a key in the YAML file that `--config` names: `batch_tokens: 4096`.

A group, such as `kafka`, has dots in its flags (`--kafka.bootstrap`), two underscores in its variables
(`LOGGPT_KAFKA__BOOTSTRAP`) and a level of its own in the file. Lists are given as JSON in variables, and as
repeated flags or with commas. An unknown key anywhere is an error. The examples in `configs/` are commented.

A setting that several commands take alike stands under the first of them; *Also* names the others, without
`loggpt-stream` before them."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting as one command takes it. path: its keys in the YAML file, the outermost first."""

    path: tuple[str, ...]
    kind: str
    default: str
    description: str
    positional: bool
    switch: bool

    @property
    def key(self) -> str:
        """Return its key in the YAML file."""
        return ".".join(self.path)

    @property
    def flag(self) -> str:
        """Return its flag; of an argument without flag, its name in the help."""
        return self.key.upper() if self.positional else f"--{self.key.replace('_', '-')}"

    @property
    def variable(self) -> str:
        """Return its environment variable."""
        return ENV_PREFIX + ENV_NESTED.join(self.path).upper()


def settings_page() -> str:
    """Return the page of all settings. Where several commands take one alike, the first of them describes it."""
    takers: defaultdict[Setting, list[str]] = defaultdict(list)
    for program in PROGRAMS:
        cls = program.settings_class()
        for setting in settings_of(cls) if cls else ():
            takers[setting].append(program.name)
    sections: defaultdict[str, list[Setting]] = defaultdict(list)
    for setting, names in takers.items():
        group = setting.path[0] if len(setting.path) > 1 else ""
        sections[f"Group {code(group)}" if group else names[0]].append(setting)
    # Groups come behind the commands: many commands share the first of them.
    ordered = sorted(sections.items(), key=lambda section: section[0].startswith("Group "))
    return page(
        "Settings",
        "Every setting of every command.",
        _HOW,
        *(f"## {title}\n\n{_section(title, found, takers)}" for title, found in ordered),
    )


def settings_of(model: type[BaseModel], before: tuple[str, ...] = ()) -> Iterator[Setting]:
    """Yield the settings of a settings class, those of its groups too."""
    for name, field in model.model_fields.items():
        path = (*before, field.alias or name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from settings_of(field.annotation, path)
        else:
            yield Setting(
                path,
                _kind(field),
                _default(field),
                field.description or "",
                positional=_POSITIONAL in field.metadata,
                switch=field.annotation is bool,
            )


def _section(title: str, settings: Sequence[Setting], takers: dict[Setting, list[str]]) -> str:
    rows = [
        (
            _names(each),
            f"{each.kind}\n{each.default}",
            prose(each.description) + _takers(title, takers[each]),
        )
        for each in settings
    ]
    shared = {tuple(takers[each]) for each in settings}
    intro = f"Taken by {_short(next(iter(shared)))}.\n\n" if title.startswith("Group ") and len(shared) == 1 else ""
    return intro + table(("Key, flag, variable", "Type, default", "Meaning"), rows)


def _names(setting: Setting) -> str:
    if setting.positional:
        return f"{code(setting.key)}\n{code(setting.flag)} (without a flag)\n{code(setting.variable)}"
    flag = code(setting.flag) + (f", {code('--no-' + setting.flag[2:])}" if setting.switch else "")
    return f"{code(setting.key)}\n{flag}\n{code(setting.variable)}"


def _takers(title: str, names: Sequence[str]) -> str:
    if title.startswith("Group "):
        return ""
    others = [name for name in names if name != title]
    return f"\n*Also {_short(others)}*" if others else ""


def _short(names: Sequence[str]) -> str:
    """Return names of commands: without the first word of most of them, and actions together where all are there."""
    shown = list(names)
    for family in _FAMILIES:
        members = [each.name for each in PROGRAMS if each.settings and each.name.split(" ")[: len(family)] == family]
        if set(members) <= set(shown):
            shown[shown.index(members[0])] = " ".join((*family, "…"))
            shown = [name for name in shown if name not in members]
    return codes(name.removeprefix("loggpt-stream ") for name in shown)


def _kind(field: FieldInfo) -> str:
    bounds = [
        f"{sign} {getattr(each, name):g}"
        for each in field.metadata
        for cls, name, sign in _BOUNDS
        if isinstance(each, cls)
    ]
    return " ".join((_named(field.annotation), *bounds))


def _named(annotation: Any) -> str:  # noqa: ANN401 - any annotation
    """Return what values an annotation stands for, in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if (origin or annotation) in _PLAIN:
        return _PLAIN[origin or annotation]
    if origin is Annotated:
        return _named(arguments[0])
    if origin in (Union, types.UnionType):
        return " or ".join(_named(each) for each in arguments if each is not type(None))
    if origin is Literal:
        return codes(arguments)
    if origin in (list, tuple):
        return f"list of {_named(arguments[0])}"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return codes(each.value for each in annotation)
    raise TypeError(f"no words for settings of type {annotation}: add them to scripts/reference/settings.py")


def _default(field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True)
    if default is PydanticUndefined:
        return "required"
    if default is None or default in ([], (), {}, ""):
        return "not set"
    if isinstance(default, bool):
        return code(str(default).lower())
    if isinstance(default, Enum):
        return code(default.value)
    if isinstance(default, (list, tuple)):
        return codes(default)
    return code(f"{default:g}" if isinstance(default, float) and default < 1e6 else default)  # noqa: PLR2004 - exponents from there on
