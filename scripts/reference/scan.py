"""Which log events the code logs: found in its syntax trees, without running it."""

from __future__ import annotations

import ast
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

REPO: Final = Path(__file__).resolve().parents[2]
SHIPPED: Final = ("loggpt_stream", "trainer", "calibrate")
# The level that a method of the logger logs at.
_LEVELS: Final = {
    "debug": "debug",
    "info": "info",
    "warning": "warning",
    "error": "error",
    "critical": "critical",
    "exception": "error",
}
_LOGGERS: Final = frozenset({"log", "_log", "logger"})
# A chain of functions that hand an event's name on is not longer than this.
_MOST_STEPS: Final = 5

_Function = ast.FunctionDef | ast.AsyncFunctionDef


class UnreadableCallError(Exception):
    """A call of a logger whose event name or fields cannot be read from the source."""


@dataclass(slots=True)
class Logged:
    """What the code says of one event: its levels, fields (in their order), components and places (`file:line`)."""

    levels: list[str] = field(default_factory=list)
    fields: list[str] = field(default_factory=list)
    components: list[str] = field(default_factory=list)
    places: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Call:
    """A call, the functions around it from the outermost on, and the module that it stands in."""

    node: ast.Call
    around: tuple[_Function, ...]
    module: str
    file: str


def scan(root: Path = REPO, packages: Sequence[str] = SHIPPED) -> dict[str, Logged]:
    """Return every event that the packages log, by name. Raises `UnreadableCallError` for one that has no fixed name.

    A name may be a constant, one of two (`"a" if x else "b"`), or a parameter for which every caller gives a constant.
    """
    calls = [
        call
        for package in packages
        for path in sorted((root / package).rglob("*.py"))
        for call in _calls(ast.parse(path.read_text(encoding="utf-8")), path.relative_to(root))
    ]
    events: defaultdict[str, Logged] = defaultdict(Logged)
    for call in calls:
        function = call.node.func
        if not (isinstance(function, ast.Attribute) and function.attr in _LEVELS and _is_logger(function.value)):
            continue
        place = f"{call.file}:{call.node.lineno}"
        if not call.node.args:
            raise UnreadableCallError(f"{place}: give the event's name first")
        for name, fields in _readings(call.node.args[0], call.node.keywords, call, calls, _MOST_STEPS):
            logged = events[name]
            _add(logged.levels, [_LEVELS[function.attr]])
            _add(logged.fields, [*fields, *(["exception"] if function.attr == "exception" else [])])
            _add(logged.components, [call.module])
            _add(logged.places, [place])
    return dict(sorted(events.items()))


def _add(known: list[str], more: Iterable[str]) -> None:
    known += [each for each in more if each not in known]


def _calls(tree: ast.Module, file: Path) -> Iterator[_Call]:
    module = ".".join(file.with_suffix("").parts)

    def below(node: ast.AST, around: tuple[_Function, ...]) -> Iterator[_Call]:
        if isinstance(node, ast.Call):
            yield _Call(node, around, module, str(file))
        if isinstance(node, _Function):
            around = (*around, node)
        for child in ast.iter_child_nodes(node):
            yield from below(child, around)

    yield from below(tree, ())


def _is_logger(node: ast.expr) -> bool:
    match node:
        case ast.Name(id=name):
            return name in _LOGGERS
        case ast.Attribute(attr=name):
            return name in _LOGGERS
        case ast.Call(func=ast.Name(id="get_logger") | ast.Attribute(attr="get_logger" | "bind")):
            return True
    return False


def _readings(
    name: ast.expr, keywords: Sequence[ast.keyword], call: _Call, calls: Sequence[_Call], steps: int
) -> Iterator[tuple[str, list[str]]]:
    """Yield each name that an event may have, with its fields; `name` and `keywords` stand in `call`."""
    match name:
        case ast.Constant(value=str(text)):
            yield text, _fields(keywords, call)
            return
        case ast.IfExp(body=first, orelse=second):
            for each in (first, second):
                yield from _readings(each, keywords, call, calls, steps)
            return
        case ast.Name(id=parameter):
            function = next((each for each in reversed(call.around) if parameter in _parameters(each)), None)
            callers = [each for each in calls if function is not None and _calls_it(each, function, call.module)]
            if callers and steps and function is not None:
                for caller in callers:
                    yield from _handed_on(parameter, keywords, call, function, caller, calls, steps)
                return
    raise UnreadableCallError(
        f"{call.file}:{call.node.lineno}: the event's name cannot be read from the source: give it as a constant, or "
        "as a parameter for which every caller gives a constant"
    )


def _handed_on(  # noqa: PLR0917 - one step of `_readings`, with all that it knows
    parameter: str,
    keywords: Sequence[ast.keyword],
    call: _Call,
    function: _Function,
    caller: _Call,
    calls: Sequence[_Call],
    steps: int,
) -> Iterator[tuple[str, list[str]]]:
    """Yield the names that one caller of `function` gives for `parameter`, with the fields of both calls."""
    given = _argument(caller.node, function, parameter)
    if given is None:
        raise UnreadableCallError(f"{caller.file}:{caller.node.lineno}: gives no {parameter} that can be read")
    rest = function.args.kwarg.arg if function.args.kwarg else None
    own, extra = [], []
    for keyword in keywords:
        if keyword.arg is None and isinstance(keyword.value, ast.Name) and keyword.value.id == rest:
            extra = [each for each in caller.node.keywords if each.arg not in _parameters(function)]
        else:
            own.append(keyword)
    before = _fields(own, call)
    for text, fields in _readings(given, extra, caller, calls, steps - 1):
        yield text, [*before, *fields]


def _fields(keywords: Sequence[ast.keyword], call: _Call) -> list[str]:
    found: list[str] = []
    for keyword in keywords:
        if keyword.arg is not None:
            found.append(keyword.arg)
        else:
            found += _keys(keyword.value, call)
    return found


def _keys(value: ast.expr, call: _Call) -> list[str]:
    """Return the keys of a dictionary that is given as `**value`."""
    if isinstance(value, ast.Name):
        of_name = value.id
        for node in (node for function in reversed(call.around) for node in ast.walk(function)):
            match node:
                case ast.Assign(targets=[ast.Name(id=target)], value=assigned) if target == of_name:
                    value = assigned
                    break
    match value:
        case ast.Dict(keys=keys) if all(isinstance(key, ast.Constant) for key in keys):
            return [str(key.value) for key in keys if isinstance(key, ast.Constant)]
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=pairs) if all(pair.arg for pair in pairs):
            return [str(pair.arg) for pair in pairs]
    raise UnreadableCallError(
        f"{call.file}:{call.node.lineno}: the event's fields cannot be read from the source: name them in the call, or "
        "in a dictionary beside it"
    )


def _parameters(function: _Function) -> list[str]:
    arguments = function.args
    return [each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]


def _calls_it(call: _Call, function: _Function, module: str) -> bool:
    """Tell whether a call is of `function`, which stands in `module`: private functions are called only there."""
    match call.node.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name == function.name and (call.module == module or not name.startswith("_"))
    return False


def _argument(call: ast.Call, function: _Function, parameter: str) -> ast.expr | None:
    for keyword in call.keywords:
        if keyword.arg == parameter:
            return keyword.value
    positional = [each.arg for each in (*function.args.posonlyargs, *function.args.args)]
    if positional[:1] in (["self"], ["cls"]):
        positional = positional[1:]
    at = positional.index(parameter) if parameter in positional else len(call.args)
    return call.args[at] if at < len(call.args) else None
