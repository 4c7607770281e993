from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path

import pytest

from scripts import python_matrix

REPO = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("line", "passed", "failed", "skipped"),
    [
        ("3 passed in 0.10s", 3, 0, 0),
        ("= 1 failed, 20 passed, 2 skipped, 4 warnings, 3 errors in 61.20s (0:01:01) =", 20, 4, 2),
        ("1 error in 0.50s", 0, 1, 0),
        ("no tests ran in 0.01s", 0, 0, 0),
    ],
)
def test_a_summary_of_pytest_is_counted(line: str, passed: int, failed: int, skipped: int) -> None:
    assert python_matrix.counts(line) == {"passed": passed, "failed": failed, "skipped": skipped}


def test_tests_are_run_and_counted(tmp_path: Path) -> None:
    tests = tmp_path / "test_two.py"
    tests.write_text("def test_good():\n    pass\n\ndef test_bad():\n    assert False\n")
    result = python_matrix.run_tests(Path(sys.executable), "3", ["--confcutdir", str(tmp_path), str(tests)])
    assert (result.passed, result.failed, result.good) == (1, 1, False)


def test_a_run_without_tests_is_not_good(tmp_path: Path) -> None:
    result = python_matrix.run_tests(Path(sys.executable), "3", ["--confcutdir", str(tmp_path), str(tmp_path)])
    assert not result.good
    assert result.note == "pytest ended with 5"


def test_an_interpreter_that_cannot_be_had_is_a_row_of_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python_matrix, "find_interpreter", lambda _uv, _version: None)
    result = python_matrix.try_version("uv", "3.14", [])
    assert not result.good
    assert "| 3.14 | none | 0 | 0 | 0 | 0 | not run: no such interpreter" in python_matrix.as_markdown([result])


def test_the_report_keeps_the_versions_that_were_not_run(tmp_path: Path) -> None:
    report = tmp_path / "python-matrix.md"
    python_matrix.write_report([python_matrix.Result("3.12", "CPython 3.12.1", passed=3)], report)
    python_matrix.write_report([python_matrix.Result("3.11", "CPython 3.11.7", passed=1, failed=1)], report)
    python_matrix.write_report([python_matrix.Result("3.12", "CPython 3.12.2", passed=4)], report)
    rows = [line for line in report.read_text().splitlines() if line.startswith("| 3.")]
    assert [row.split(" | ")[:7] for row in rows] == [
        ["| 3.11", "CPython 3.11.7", "1", "1", "0", "0", "failed"],
        ["| 3.12", "CPython 3.12.2", "4", "0", "0", "0", "passed"],
    ]


def test_the_report_that_is_kept_names_every_supported_version() -> None:
    kept = json.loads(python_matrix.REPORT.with_suffix(".json").read_text())
    assert [result["version"] for result in kept["results"]] == list(python_matrix.VERSIONS)
    oldest = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["requires-python"]
    assert oldest == f">={python_matrix.VERSIONS[0]}"
