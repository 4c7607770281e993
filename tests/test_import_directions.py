"""Arrows point one way: lines ← model ← alerts ← daemon ← commands; kafka knows nothing of logs."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parent.parent
OURS = ("loggpt_stream", "trainer", "calibrate")
# What is tested must not need its tests.
TESTING = frozenset({"tests", "testing", "benchmarks", "faults"})
# Single modules that anybody may use: they know nothing of logs, models or Kafka.
LEAVES = frozenset({
    "command", "completion", "errors", "log_events", "logs", "message", "package", "process", "program",
    "record_headers", "settings", "terminal",
})  # fmt: skip
# Finds the settings of every command, which it must not name: it imports whatever module is called `settings`.
DISCOVERS = "loggpt_stream.settings"

# Who may import what. An area may always import itself, except that a leaf is one module.
MAY_IMPORT: dict[str, frozenset[str]] = {
    "lines": frozenset(),
    "package": frozenset(),
    "errors": frozenset(),
    "message": frozenset(),
    "terminal": frozenset(),
    "logs": frozenset({"terminal"}),
    "log_events": frozenset(),
    "record_headers": frozenset(),
    "settings": frozenset({"errors"}),
    "command": frozenset({"errors", "settings"}),
    "completion": frozenset({"command", "settings"}),
    "program": frozenset({"package", "errors", "terminal", "command", "completion"}),
    "process": frozenset({"errors", "logs"}),
    "model": LEAVES | {"lines"},
    "kafka": LEAVES,
    "alerts": LEAVES | {"lines", "model"},
    "history": LEAVES | {"lines", "kafka"},
    "daemon": LEAVES | {"lines", "model", "kafka", "alerts"},
    "route": LEAVES | {"lines", "kafka"},
    "dead_letters": LEAVES | {"lines", "kafka", "history", "daemon", "route"},
    "checks": LEAVES | {"lines", "model", "kafka", "daemon"},
    "replay": LEAVES | {"lines", "model", "alerts", "history", "daemon"},
    "simulator": LEAVES | {"lines", "kafka", "history"},
    "trainer": LEAVES | {"lines", "model", "history", "kafka"},
    "calibrate": LEAVES | {"lines", "model", "history", "kafka"},
}
# These are at the top: one subcommand a module, and nobody imports them but the command that picks one.
MAY_IMPORT["demo"] = frozenset(MAY_IMPORT)
MAY_IMPORT["commands"] = frozenset(MAY_IMPORT)
MAY_IMPORT["cli"] = LEAVES | {"commands"}

# Beyond the standard library `lines` has orjson, and of it nothing that does I/O or reads a clock.
LINES_THIRD_PARTY = frozenset({"orjson"})
LINES_FORBIDDEN = frozenset({
    "asyncio", "gzip", "io", "logging", "lzma", "multiprocessing", "os", "pathlib", "random", "select", "socket",
    "subprocess", "tempfile", "threading", "time",
})  # fmt: skip


def area(module: str) -> str:
    """Return the area of MAY_IMPORT that one of our modules belongs to."""
    parts = module.split(".")
    if parts[0] != "loggpt_stream":
        return parts[0]
    if len(parts) == 1:
        return "package"
    return "cli" if parts[1] == "__main__" else parts[1]


def imports(source: str, module: str, *, is_package: bool, known: frozenset[str]) -> set[str]:
    """Return the full names of the modules that a source text imports anywhere, in functions and for types too.

    Where a name is computed, every text in the source that looks like a module of ours counts as imported.
    """
    package = module if is_package else module.rpartition(".")[0]
    found: set[str] = set()
    nodes = list(ast.walk(ast.parse(source)))
    texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    named = {text for text in texts if re.fullmatch(rf"({'|'.join(OURS)})(\.\w+)+", text)}
    for node in nodes:
        match node:
            case ast.Import(names=names):
                found |= {name.name for name in names}
            case ast.ImportFrom(module=base, names=names, level=level):
                if level:
                    above = package.split(".")[: len(package.split(".")) - level + 1]
                    base = ".".join([*above, base] if base else above)
                whole = base or ""
                # `from package import x` means the module package.x where there is one.
                found |= {inner if (inner := f"{whole}.{name.name}") in known else whole for name in names}
            case ast.Call(func=ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__")):
                first = node.args[0] if node.args else None
                found |= {str(first.value)} if isinstance(first, ast.Constant) else named or {"<computed>"}
    return found


def offences(source: str, module: str, *, is_package: bool = False, known: frozenset[str] = frozenset()) -> list[str]:
    """Return a sentence for each import that the table forbids."""
    here = area(module)
    told = []
    for name in sorted(imports(source, module, is_package=is_package, known=known)):
        root = name.split(".")[0]
        if root in OURS:
            there = area(name)
            if there != here and there not in MAY_IMPORT.get(here, frozenset()):
                told.append(f"{module} ({here}) must not import {name} ({there})")
        elif root in TESTING:
            told.append(f"{module} must not import {name}: it is not installed")
        elif name == "<computed>" and module != DISCOVERS:
            told.append(f"{module} imports a module by a name that cannot be read here")
        elif here == "lines":
            if root in LINES_FORBIDDEN:
                told.append(f"{module} (lines) must not import {name}: no I/O, no clock")
            elif root not in sys.stdlib_module_names | LINES_THIRD_PARTY:
                told.append(f"{module} (lines) must not import {name}: standard library and orjson only")
    return told


def our_modules() -> dict[str, Path]:
    """Return every module of ours by full name."""
    found = {}
    for path in sorted(path for root in OURS for path in (REPO / root).rglob("*.py")):
        parts = path.relative_to(REPO).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = our_modules()


def test_every_area_has_its_row_and_every_row_its_area() -> None:
    assert {area(name) for name in MODULES} == set(MAY_IMPORT)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module: str) -> None:
    path = MODULES[module]
    source = path.read_text()
    assert offences(source, module, is_package=path.name == "__init__.py", known=frozenset(MODULES)) == []


def circles(graph: dict[str, set[str]]) -> list[tuple[str, ...]]:
    """Return the groups of modules that import each other, for types too."""
    reach: dict[str, set[str]] = {}
    for start, imported in graph.items():
        seen: set[str] = set()
        waiting = list(imported)
        while waiting:
            module = waiting.pop()
            if module not in seen:
                seen.add(module)
                waiting += graph[module]
        reach[start] = seen
    found = {tuple(sorted(m for m in reach[start] if start in reach[m])) for start in graph if start in reach[start]}
    return sorted(found)


def test_no_two_modules_import_each_other_not_even_by_way_of_others() -> None:
    known = frozenset(MODULES)
    graph = {
        module: imports(path.read_text(), module, is_package=path.name == "__init__.py", known=known) & known - {module}
        for module, path in MODULES.items()
    }
    assert circles(graph) == []


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [("a", "b", "c")]


KNOWN = frozenset({"loggpt_stream", "loggpt_stream.errors", "loggpt_stream.lines.masks", "loggpt_stream.daemon.source"})


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("loggpt_stream.lines.masks", "from loggpt_stream.errors import UserError"),
        ("loggpt_stream.lines.masks", "from loggpt_stream import errors"),
        ("loggpt_stream.lines.masks", "from .. import errors"),
        ("loggpt_stream.lines.masks", "from ..model.gpt import build"),
        ("loggpt_stream.lines.masks", "import numpy as np"),
        ("loggpt_stream.lines.masks", "import time"),
        ("loggpt_stream.lines.masks", "from pathlib import Path"),
        ("loggpt_stream.model.gpt", "from loggpt_stream.daemon.source import Source"),
        ("loggpt_stream.model.gpt", "def f():\n    import loggpt_stream.daemon.source"),
        ("loggpt_stream.model.gpt", "if TYPE_CHECKING:\n    from loggpt_stream.history.corpus import Corpus"),
        ("loggpt_stream.history.corpus", "from loggpt_stream.model.gpt import build"),
        ("loggpt_stream.daemon.source", "from loggpt_stream.history.corpus import Corpus"),
        ("loggpt_stream.daemon.source", "from loggpt_stream.cli import main"),
        ("loggpt_stream.daemon.source", "from trainer.fit import fit"),
        ("loggpt_stream.settings", "from loggpt_stream.logs import configure"),
        ("loggpt_stream.kafka.topics", "from loggpt_stream.lines.record import Record"),
        ("loggpt_stream.alerts.alert", "from loggpt_stream.kafka.topics import look_up"),
        ("loggpt_stream.somewhere", "from loggpt_stream.lines.record import Record"),
        ("loggpt_stream.errors", "from loggpt_stream.settings import Settings"),
        ("loggpt_stream.simulate", "from trainer.fit import fit"),
        ("loggpt_stream.cli", "import calibrate.cli"),
        ("loggpt_stream.cli", "importlib.import_module('calibrate.cli')"),
        ("loggpt_stream.cli", "importlib.import_module(name)"),
        ("loggpt_stream.cli", "COMMANDS = {'fit': 'trainer.cli'}\nimport_module(COMMANDS[name])"),
        ("trainer.fit", "from loggpt_stream.daemon.source import Source"),
        ("trainer.fit", "from loggpt_stream.simulate import simulate"),
        ("trainer.fit", "from calibrate.threshold import best"),
        ("loggpt_stream.daemon.source", "from faults.failpoints import arm"),
        ("loggpt_stream.commands.demo", "from testing.kafka_server import KafkaServer"),
        ("calibrate.threshold", "from trainer.fit import fit"),
    ],
)
def test_a_forbidden_import_is_found(module: str, source: str) -> None:
    assert len(offences(source, module, known=KNOWN)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("loggpt_stream.lines.masks", "import re, orjson\nfrom .session import Line"),
        ("loggpt_stream.model.gpt", "import torch\nfrom loggpt_stream import __version__, errors"),
        ("loggpt_stream.daemon.source", "import time\nfrom loggpt_stream.model.gpt import build"),
        ("loggpt_stream.commands.run", "from loggpt_stream.daemon.source import Source"),
        ("loggpt_stream.cli", "COMMANDS = {'demo': 'loggpt_stream.commands.demo'}\nimport_module(COMMANDS[name])"),
        ("loggpt_stream.commands.demo", "from trainer.fit import fit\nfrom calibrate.threshold import best"),
        ("loggpt_stream.kafka.topics", "from loggpt_stream.settings import Settings"),
        ("trainer.fit", "from loggpt_stream.history.corpus import Corpus\nfrom loggpt_stream.settings import Settings"),
    ],
)
def test_an_allowed_import_is_no_offence(module: str, source: str) -> None:
    assert offences(source, module, known=KNOWN) == []
