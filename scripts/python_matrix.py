"""Run the fast tests with every Python version that is supported, and write down how each went.

Each interpreter gets an environment of its own from requirements.lock. One that cannot be had is reported, not skipped.
The report keeps the last result of versions that are not run this time.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

REPO = Path(__file__).parent.parent
REPORT = REPO / "docs" / "reports" / "python-matrix.md"
VERSIONS = ("3.11", "3.12", "3.13", "3.14")
# What `make check` selects: no broker, no long wait.
FAST = ("-m", "not kafka and not slow")
_DOWNLOAD_S = 120
_COUNT = re.compile(r"(\d+) (passed|failed|skipped|errors?)\b")


@dataclass(frozen=True, slots=True)
class Result:
    """How the tests went with one Python version."""

    version: str
    interpreter: str | None = None
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: int = 0
    note: str = ""
    date: str = ""
    commit: str = ""
    tests: str = ""

    @property
    def good(self) -> bool:
        """Return whether there was an interpreter, and every test that ran passed."""
        return bool(self.interpreter and self.passed and not self.failed and not self.note)


def find_interpreter(uv: str, version: str) -> str | None:
    """Return an interpreter of this version: one of this machine, else one that uv can download, else none."""
    find = [uv, "python", "find", "--no-project", "--system", version]
    if found := _output(find):
        return found
    try:
        installed = subprocess.run([uv, "python", "install", version], check=False, timeout=_DOWNLOAD_S)
    except subprocess.TimeoutExpired:
        return None
    return _output(find) if installed.returncode == 0 else None


def make_environment(uv: str, interpreter: str, folder: Path) -> Path:
    """Make an environment as bootstrap.sh does, and return its Python."""
    python = folder / "bin" / "python"
    subprocess.run([interpreter, "-m", "venv", "--clear", "--without-pip", str(folder)], check=True)
    sync = [uv, "pip", "sync", "--quiet", "--python", str(python), "--require-hashes", "requirements.lock"]
    subprocess.run(sync, cwd=REPO, check=True)
    ours = [uv, "pip", "install", "--quiet", "--python", str(python), "--no-deps", "--no-build-isolation"]
    subprocess.run([*ours, "--editable", "."], cwd=REPO, check=True)
    return python


def counts(summary: str) -> dict[str, int]:
    """Return the numbers of pytest's closing line; tests that ended in an error count as failed."""
    found = {"passed": 0, "failed": 0, "skipped": 0}
    for number, outcome in _COUNT.findall(summary):
        found["failed" if outcome.startswith("error") else outcome] += int(number)
    return found


def run_tests(python: Path, version: str, arguments: list[str]) -> Result:
    """Run the tests and return how they went."""
    name = _output([str(python), "-c", "import platform; print(platform.python_version())"])
    started = dt.datetime.now(dt.UTC)
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    tests = subprocess.run(command, cwd=REPO, check=False, stdout=subprocess.PIPE, text=True)
    seconds = round((dt.datetime.now(dt.UTC) - started).total_seconds())
    print(tests.stdout)
    lines = tests.stdout.strip().splitlines()
    found = counts(lines[-1] if lines else "")
    # pytest ends with 1 where a test failed; anything else but 0 means that the run itself did not come to its end.
    note = "" if tests.returncode in {0, 1} else f"pytest ended with {tests.returncode}"
    return Result(
        version, f"CPython {name}", found["passed"], found["failed"], found["skipped"], seconds=seconds, note=note
    )


def try_version(uv: str, version: str, arguments: list[str]) -> Result:
    """Return how the tests went with this version, or why they did not run."""
    interpreter = find_interpreter(uv, version)
    if interpreter is None:
        return Result(version, note="not run: no such interpreter on this machine, and uv could not download one")
    folder = REPO / "build" / "matrix" / version
    try:
        python = make_environment(uv, interpreter, folder)
        return run_tests(python, version, arguments)
    except subprocess.CalledProcessError as error:
        return Result(version, interpreter, note=f"not run: {error.cmd[1]} {error.cmd[2]} failed")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def as_markdown(results: list[Result]) -> str:
    """Return the report that people read."""
    rows = [
        f"| {result.version} | {result.interpreter or 'none'} | {result.passed} | {result.failed} | {result.skipped} "
        f"| {result.seconds} | {result.note or ('passed' if result.good else 'failed')} "
        f"| {result.date}, {result.commit} | `{result.tests}` |"
        for result in results
    ]
    return "\n".join(
        [
            "# Python versions",
            "",
            "The fast tests with every supported Python version, and the last result of each. Each interpreter has an",
            "environment of its own from `requirements.lock`. `make matrix` repeats it and writes this page;",
            "`make matrix ARGS='--versions 3.12'` takes one version.",
            "",
            "| Python | interpreter | passed | failed | skipped | seconds | result | date, commit | tests |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
            *rows,
            "",
        ]
    )


def write_report(results: list[Result], report: Path) -> None:
    """Write the results as a page and as JSON beside it, and keep those of other versions that were there."""
    data = report.with_suffix(".json")
    kept = [Result(**row) for row in json.loads(data.read_text())["results"]] if data.exists() else []
    rows = {result.version: result for result in [*kept, *results]}
    merged = [rows[version] for version in VERSIONS if version in rows]
    report.write_text(as_markdown(merged))
    data.write_text(json.dumps({"results": [asdict(result) for result in merged]}, indent=2) + "\n")


def path_with_pyenv() -> str:
    """Return PATH with pyenv's interpreters first: those on PATH refuse to start where another version is chosen."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    folders = sorted(str(folder) for folder in root.glob("versions/*/bin"))
    return os.pathsep.join([*folders, os.environ.get("PATH", "")])


def _output(command: list[str]) -> str | None:
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


def _uv() -> str:
    found = shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if found is None:
        raise SystemExit("python_matrix: needs uv on PATH (pip install uv)")
    return found


def main(words: list[str] | None = None) -> int:
    """Run the matrix and write the report; fail if a version that ran did not pass."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--versions", nargs="+", choices=VERSIONS, default=list(VERSIONS), help="Python versions, such as 3.12"
    )
    parser.add_argument("--workers", default="2", help="test processes side by side")
    parser.add_argument("tests", nargs="*", help="only these test files or folders")
    options = parser.parse_args(words)
    arguments = [*FAST, *options.tests]
    uv = _uv()
    os.environ["PATH"] = path_with_pyenv()
    side_by_side = ["-n", options.workers, "--dist", "loadfile"]
    date = dt.datetime.now(dt.UTC).date().isoformat()
    commit = _output(["git", "-C", str(REPO), "rev-parse", "--short", "HEAD"]) or "no git"
    results = []
    for version in options.versions:
        result = try_version(uv, version, [*arguments, *side_by_side])
        results.append(replace(result, date=date, commit=commit, tests=shlex.join(arguments)))
        write_report(results, REPORT)
    print(REPORT.read_text())
    return int(any(result.interpreter and not result.good for result in results))


if __name__ == "__main__":
    raise SystemExit(main())
