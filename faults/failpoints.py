"""Kill a process at any `await` of its code, without a word about it in that code.

    points = enumerate_points([Target("loggpt_stream.daemon.service", ("Daemon._commit",))])
    arm(Failpoint(points[0], "before", nth_hit=3))     # in the process that shall die

A point is where a coroutine may be suspended: each `await`, each entry and exit of an `async with`, each step of an
`async for`, in functions and the functions inside them. They are found in the source, so an `await` that is added is a
point without anybody's doing. A name has the function, the point's number in it, and its text:
`loggpt_stream.daemon.service:Daemon._commit:2:await self._consumer.commit(known)`.

`arm` compiles the module's source anew with a call before and after each point, and puts the new code into the function
objects that are there already, so that whoever holds one of them runs it.
"""

from __future__ import annotations

import ast
import copy
import importlib
import inspect
import json
import os
import pkgutil
import signal
from collections import Counter
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator
    from types import ModuleType

When = Literal["before", "after"]
# kill: SIGKILL to itself. stop: SIGSTOP to itself, until somebody continues it. tell: a JSON line on standard error.
Action = Literal["kill", "stop", "tell"]

EVERY_POINT: Final = "*"
_TEXT_CHARS: Final = 72
# Names that the new code finds among the module's globals.
_BEFORE, _AFTER, _MANAGER, _ITERATOR = (f"__fault_{name}__" for name in ("before", "after", "manager", "iterator"))

_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Target:
    """Functions of a module by qualified name (`Class.method`), with those inside them; none named: all of it."""

    module: str
    functions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Failpoint:
    """What shall happen where: at the `nth_hit` (from 1; 0: at each) of a point, or of all where it is EVERY_POINT.

    `before` is before anything of the awaited expression is evaluated, `after` when it has returned; where it raises,
    there is no after.
    """

    point: str
    when: When = "before"
    nth_hit: int = 1
    action: Action = "kill"


def package_targets(*packages: str) -> list[Target]:
    """Return every module of these packages."""
    return [
        Target(found.name)
        for package in packages
        for found in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}.")
    ]


def daemon_targets() -> list[Target]:
    """Return every module that awaits for the daemon: its own, and those that know Kafka."""
    return package_targets("loggpt_stream.daemon", "loggpt_stream.kafka")


def enumerate_points(targets: Iterable[Target]) -> list[str]:
    """Return the names of all points, in the order of the source.

    Raises `ValueError` for a function that a module does not have.
    """
    names = []
    for target in targets:
        tree = _parse(importlib.import_module(target.module))
        found = _Points(target.module)
        found.visit(tree)
        _check(target, found.functions)
        names += [name for owner, name in found.names if _wanted(target, owner)]
    return names


def arm(failpoint: Failpoint, targets: Iterable[Target] = ()) -> None:
    """Make this process do what the failpoint says. `targets` are for EVERY_POINT; a single point names its own.

    Raises `ValueError` for a point that the source does not have.
    """
    if failpoint.point != EVERY_POINT:
        targets = [Target(failpoint.point.split(":", 1)[0])]
        if failpoint.point not in enumerate_points(targets):
            raise ValueError(f"no such point in the source: {failpoint.point}")
    hooks = _Hooks(failpoint)
    for target in targets:
        module = importlib.import_module(target.module)
        finder = _Points(target.module)
        tree = finder.visit(_parse(module))
        instrumented = compile(
            ast.fix_missing_locations(tree), module.__file__ or target.module, "exec", dont_inherit=True
        )
        module.__dict__.update(hooks.by_name())
        # The functions of the module itself and of its classes: those inside them come with their code.
        codes = {code.co_qualname: code for code in _outermost(instrumented)}
        for name, code in codes.items():
            if name in finder.suspending and _wanted(target, name):
                _function(module, name).__code__ = code


class _Points(ast.NodeTransformer):
    """Finds the points of a module in order, and puts the calls around them."""

    def __init__(self, module: str) -> None:
        self.names: list[tuple[str, str]] = []
        self.functions: set[str] = set()
        self.suspending: set[str] = set()
        self._module = module
        self._scopes: list[tuple[str, bool]] = []
        self._counts: Counter[str] = Counter()

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return self._inside(node, is_function=False)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._inside(node, is_function=True)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self._inside(node, is_function=True)

    def visit_Await(self, node: ast.Await) -> ast.AST:
        name = self._name(ast.unparse(node))
        self.generic_visit(node)
        # hook_after(name, (hook_before(name), await ...)[1])
        pair = ast.Tuple([_call(_BEFORE, name), node], ast.Load())
        return _at(node, _call(_AFTER, name, ast.Subscript(pair, ast.Constant(1), ast.Load())))

    def visit_AsyncWith(self, node: ast.AsyncWith) -> ast.AST:
        for item in node.items:
            text = ast.unparse(item.context_expr)
            enters, exits = (self._name(f"async with {text}: {word}") for word in ("enter", "exit"))
            self.generic_visit(item)
            item.context_expr = _at(item.context_expr, _call(_MANAGER, enters, exits, item.context_expr))
        node.body = [self.visit(each) for each in node.body]
        return node

    def visit_AsyncFor(self, node: ast.AsyncFor) -> ast.AST:
        name = self._name(f"async for {ast.unparse(node.target)} in {ast.unparse(node.iter)}")
        self.generic_visit(node)
        node.iter = _at(node.iter, _call(_ITERATOR, name, node.iter))
        return node

    def visit_comprehension(self, node: ast.comprehension) -> ast.AST:
        if node.is_async:
            name = self._name(f"async for {ast.unparse(node.target)} in {ast.unparse(node.iter)}")
            self.generic_visit(node)
            node.iter = _at(node.iter, _call(_ITERATOR, name, node.iter))
        else:
            self.generic_visit(node)
        return node

    def _inside(self, node: ast.ClassDef | _Function, *, is_function: bool) -> ast.AST:
        # What decorates a function, and its defaults, run in the scope around it.
        if self._scopes and self._scopes[-1][1]:
            name = f"{self._scopes[-1][0]}.<locals>.{node.name}"
        else:
            name = f"{self._scopes[-1][0]}.{node.name}" if self._scopes else node.name
        if is_function:
            self.functions.add(name)
        self._scopes.append((name, is_function))
        node.body = [self.visit(each) for each in node.body]
        self._scopes.pop()
        return node

    def _name(self, text: str) -> str:
        owner = next((name for name, is_function in reversed(self._scopes) if is_function), None)
        if owner is None:
            raise ValueError(f"{self._module}: an await outside of any function: {text}")
        self._counts[owner] += 1
        short = " ".join(text.split())
        short = short if len(short) <= _TEXT_CHARS else short[: _TEXT_CHARS - 1] + "…"
        name = f"{self._module}:{owner}:{self._counts[owner]}:{short}"
        self.names.append((owner, name))
        self.suspending.add(owner.split(".<locals>.")[0])
        return name


class _Hooks:
    """What the new code calls: counts the hits, and acts at the right one."""

    def __init__(self, failpoint: Failpoint) -> None:
        self._failpoint = failpoint
        self._hits = 0

    def by_name(self) -> dict[str, Any]:
        """Return the globals that the new code needs."""
        return {
            _BEFORE: self.before,
            _AFTER: self.after,
            _MANAGER: lambda enters, exits, manager: _Manager(self, enters, exits, manager),
            _ITERATOR: lambda name, iterable: _iterate(self, name, iterable),
        }

    def before(self, name: str) -> None:
        """Note that a point begins."""
        self._hit(name, "before")

    def after(self, name: str, value: Any) -> Any:  # noqa: ANN401 - of the code under test
        """Note that a point is over, and hand on what it returned."""
        self._hit(name, "after")
        return value

    def _hit(self, name: str, when: When) -> None:
        wanted = self._failpoint
        if when != wanted.when or wanted.point not in (name, EVERY_POINT):
            return
        self._hits += 1
        if wanted.nth_hit not in (0, self._hits):
            return
        told = {"event": "failpoint", "point": name, "when": when, "hit": self._hits, "action": wanted.action}
        os.write(2, json.dumps(told).encode() + b"\n")
        if wanted.action != "tell":
            os.kill(os.getpid(), signal.SIGKILL if wanted.action == "kill" else signal.SIGSTOP)


class _Manager:
    """An asynchronous context manager with a point at each end."""

    def __init__(self, hooks: _Hooks, enters: str, exits: str, manager: Any) -> None:  # noqa: ANN401 - of the code under test
        self._hooks = hooks
        self._enters = enters
        self._exits = exits
        self._manager = manager

    async def __aenter__(self) -> Any:  # noqa: ANN401
        self._hooks.before(self._enters)
        return self._hooks.after(self._enters, await type(self._manager).__aenter__(self._manager))

    async def __aexit__(self, *error: object) -> Any:  # noqa: ANN401
        self._hooks.before(self._exits)
        return self._hooks.after(self._exits, await type(self._manager).__aexit__(self._manager, *error))


async def _iterate(hooks: _Hooks, name: str, iterable: Any) -> AsyncIterator[Any]:  # noqa: ANN401 - of the code under test
    iterator = aiter(iterable)
    while True:
        hooks.before(name)
        try:
            value = await anext(iterator)
        except StopAsyncIteration:
            hooks.after(name, None)
            return
        yield hooks.after(name, value)


def _parse(module: ModuleType) -> ast.Module:
    return ast.parse(inspect.getsource(module))


def _call(function: str, *arguments: str | ast.expr) -> ast.Call:
    given = [ast.Constant(each) if isinstance(each, str) else each for each in arguments]
    return ast.Call(ast.Name(function, ast.Load()), given, [])


def _at(place: ast.expr, new: ast.expr) -> ast.expr:
    """Return `new`, all that is new in it, at the lines of what it replaces."""
    return ast.fix_missing_locations(ast.copy_location(new, copy.copy(place)))


def _wanted(target: Target, function: str) -> bool:
    if not target.functions:
        return True
    return any(function == each or function.startswith(f"{each}.<locals>.") for each in target.functions)


def _check(target: Target, known: set[str]) -> None:
    missing = [name for name in target.functions if name not in known]
    if missing:
        raise ValueError(f"{target.module} has no function {', '.join(missing)}")


def _outermost(code: CodeType) -> Iterator[CodeType]:
    """Yield the code of each function that is in no other function."""
    for each in code.co_consts:
        if isinstance(each, CodeType):
            if each.co_flags & inspect.CO_NEWLOCALS:
                yield each
            else:
                yield from _outermost(each)


def _function(module: ModuleType, name: str) -> FunctionType:
    found: Any = module
    for part in name.split("."):
        found = inspect.getattr_static(found, part)
        if isinstance(found, staticmethod | classmethod):
            found = found.__func__
        if isinstance(found, property):
            found = found.fget
    found = inspect.unwrap(found)
    if not isinstance(found, FunctionType):
        raise TypeError(f"{module.__name__}:{name} is no function that can be given new code")
    return found
