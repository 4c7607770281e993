"""The page that follows a commit through the code names what is there, in eight files or fewer."""

from __future__ import annotations

import ast
import re
from pathlib import Path

REPO = Path(__file__).parents[2]
PAGE = REPO / "docs" / "architecture" / "a-commit.md"
MOST_FILES = 8


def stops() -> list[tuple[str, list[str]]]:
    """Return file and names of each stop of the walk, in order."""
    found = re.findall(r"^ \d +(\S+\.py) +(.+?)(?:  .*)?$", PAGE.read_text(), re.MULTILINE)
    return [(file, [name for name in names.split(", ") if name != "…"]) for file, names in found]


def names_in(file: Path) -> set[str]:
    """Return the functions and methods of a module, methods with their class."""
    names = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ClassDef):
            inner = (each for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef))
            names |= {f"{node.name}.{each.name}" for each in inner}
    return names


def test_every_stop_of_the_walk_is_in_the_code() -> None:
    assert len(stops()) > MOST_FILES
    for file, names in stops():
        assert set(names) <= names_in(REPO / "loggpt_stream" / file), file


def test_a_commit_is_followed_in_eight_files_or_fewer() -> None:
    assert len({file for file, _ in stops()}) <= MOST_FILES


def test_what_a_task_calls_for_a_commit_is_what_the_page_says() -> None:
    source = ast.parse((REPO / "loggpt_stream/kafka/partition_task.py").read_text())
    task = next(node for node in source.body if isinstance(node, ast.ClassDef) and node.name == "PartitionTask")
    commit = next(node for node in task.body if isinstance(node, ast.AsyncFunctionDef) and node.name == "commit")
    called = [ast.unparse(node.func) for node in ast.walk(commit) if isinstance(node, ast.Call)]
    assert sorted(called) == ["self._log.commit", "self._publisher.compose", "self.partition.take"]
