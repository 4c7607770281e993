"""Prepare a release in `dist/`: source archive, wheel, notes, bill of materials and checksums.

Nothing is ever pushed. Without `--version` it is a rehearsal; with it the commit is tagged, in this repository only.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPO = Path(__file__).parent.parent
SHIPPED = ("loggpt_stream", "trainer", "calibrate")

_HEADING = re.compile(r"^## \[(?P<name>[^\]]+)\](?: - (?P<date>\d{4}-\d{2}-\d{2}))?$", re.MULTILINE)
_LINK = re.compile(r"^\[[^\]]+\]: \S+$", re.MULTILINE)
_LOCKED = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;\\]+)", re.MULTILINE)


class ReleaseError(Exception):
    """What keeps this commit from being released, in a sentence that says how to mend it."""


def package_version(repo: Path) -> str:
    """Return the version that the package states, without importing it."""
    module = ast.parse((repo / "loggpt_stream" / "__init__.py").read_text())
    for statement in module.body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__version__":
            return str(ast.literal_eval(statement.value))
    raise ReleaseError("loggpt_stream/__init__.py states no __version__.")


def changelog_sections(text: str) -> dict[str, tuple[str | None, str]]:
    """Return each section of a changelog: its name (a version, or Unreleased), its date and its text."""
    headings = list(_HEADING.finditer(text))
    ends = [heading.start() for heading in headings[1:]] + [len(text)]
    return {
        heading["name"]: (heading["date"], _LINK.sub("", text[heading.end() : end]).strip())
        for heading, end in zip(headings, ends, strict=True)
    }


def release_notes(changelog: str, version: str) -> str:
    """Return the changelog's section on this version.

    Raises:
        ReleaseError: There is no such section, or it has no date or no entries.
    """
    date, entries = changelog_sections(changelog).get(version, (None, ""))
    if not (date and entries):
        raise ReleaseError(
            f"CHANGELOG.md has no section '## [{version}] - YYYY-MM-DD' with entries. "
            "Move what is under Unreleased there, and commit."
        )
    return f"# loggpt-stream {version} ({date})\n\n{entries}\n"


def obstacles_to_a_tag(repo: Path, changelog: str, version: str) -> list[str]:
    """Return what a rehearsal may overlook and a tag may not."""
    found = []
    if changelog_sections(changelog).get("Unreleased", (None, ""))[1]:
        found.append(f"CHANGELOG.md has entries under Unreleased: they belong to {version}, or to a newer version.")
    if _git(repo, "tag", "--list", f"v{version}"):
        found.append(f"the tag v{version} exists: raise __version__ in loggpt_stream/__init__.py.")
    return found


def check_tree_is_clean(repo: Path) -> None:
    """Refuse a tree that differs from its commit, since nobody could build the same again.

    Raises:
        ReleaseError: A file is changed, or is neither committed nor ignored.
    """
    if changed := _git(repo, "status", "--porcelain"):
        raise ReleaseError(f"Commit or stash these first:\n{changed}")


def check_wheel(wheel: Path) -> None:
    """Refuse a wheel that lacks one of our packages or its type marker, or that brings anything else.

    Raises:
        ReleaseError: The wheel holds too much or too little.
    """
    names = zipfile.ZipFile(wheel).namelist()
    packages = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    if packages != set(SHIPPED):
        raise ReleaseError(f"{wheel.name} holds {', '.join(sorted(packages))}. It must hold {', '.join(SHIPPED)} only.")
    for package in SHIPPED:
        if f"{package}/py.typed" not in names:
            raise ReleaseError(f"{wheel.name} lacks {package}/py.typed: name it under package-data in pyproject.toml.")


def build_wheel(repo: Path, dist: Path) -> Path:
    """Build the source archive from the commit, then the wheel from that archive; return the wheel.

    What lies about in the work tree, ignored files and the leavings of earlier builds included, cannot get in.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder)
        archive = subprocess.run(["git", "archive", "HEAD"], cwd=repo, check=True, stdout=subprocess.PIPE).stdout
        subprocess.run(["tar", "-x", "-C", str(source)], input=archive, check=True)
        built = subprocess.run(
            [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(dist), str(source)],
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    if built.returncode != 0:
        raise ReleaseError(f"The build failed:\n{built.stdout}")
    return next(dist.glob("*.whl"))


def bill_of_materials(repo: Path, version: str) -> dict[str, Any]:
    """Return what an installation of this version consists of on this platform, as CycloneDX.

    The packages and their licences are read from this environment, which `make venv` makes from the lock.

    Raises:
        ReleaseError: The environment does not agree with requirements.lock.
    """
    program = str(Path(sys.executable).parent / "cyclonedx-py")
    project_file = str(repo / "pyproject.toml")
    command = [program, "environment", sys.executable, "--pyproject", project_file, "--output-reproducible"]
    document = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    project = tomllib.loads((repo / "pyproject.toml").read_text())["project"]
    needs = runtime_needs(project["dependencies"])
    return runtime_only(document, needs, (repo / "requirements.lock").read_text(), version)


def runtime_needs(dependencies: list[str]) -> dict[str, set[str]]:
    """Return what each package that a user installs needs, by name, with ours as the empty name.

    cyclonedx-py itself counts what extras would need that nobody asked for, development tools among them.
    """
    needs: dict[str, set[str]] = {"": set()}
    visited: set[tuple[str, str]] = set()
    waiting = [("", "", line) for line in dependencies]
    while waiting:
        parent, extra, line = waiting.pop()
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        needs[parent].add(name)
        needs.setdefault(name, set())
        for wanted in {"", *requirement.extras}:
            if (name, wanted) not in visited:
                visited.add((name, wanted))
                waiting += [(name, wanted, more) for more in metadata.requires(name) or []]
    return needs


def runtime_only(document: dict[str, Any], needs: dict[str, set[str]], lock: str, version: str) -> dict[str, Any]:
    """Return a bill of materials without what only developers need.

    Raises:
        ReleaseError: A version is not the one in the lock.
    """
    components: dict[str, Any] = {
        canonicalize_name(component["name"]): component for component in document["components"]
    }
    kept = {name: components[name] for name in sorted(needs) if name}
    locked = {(canonicalize_name(match["name"]), match["version"]) for match in _LOCKED.finditer(lock)}
    installed = {(name, component["version"]) for name, component in kept.items()}
    if strangers := sorted(f"{name} {other}" for name, other in installed - locked):
        raise ReleaseError(f"Not as in requirements.lock: {', '.join(strangers)}. Run: rm -rf .venv && make venv")

    root = document["metadata"]["component"] | {"version": version, "purl": f"pkg:pypi/loggpt-stream@{version}"}
    refs = {"": root["bom-ref"]} | {name: component["bom-ref"] for name, component in kept.items()}
    return document | {
        "metadata": document["metadata"] | {"component": root},
        "components": list(kept.values()),
        "dependencies": [
            {"ref": ref, "dependsOn": [refs[needed] for needed in sorted(needs[name])]} for name, ref in refs.items()
        ],
    }


def write_checksums(dist: Path) -> None:
    """Write the SHA-256 of every file in the folder, as `sha256sum --check` reads it."""
    sums = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in sorted(dist.iterdir())]
    (dist / "SHA256SUMS").write_text("".join(sums))


def prepare(repo: Path, dist: Path, version: str | None) -> list[str]:
    """Check, build and write all of a release, and tag it if a version is asked for.

    Returns:
        The commands that are left for a person to run.

    Raises:
        ReleaseError: Something is missing; no tag was made.
    """
    stated = package_version(repo)
    if version not in {None, stated}:
        raise ReleaseError(f"VERSION is {version}, but loggpt_stream/__init__.py says {stated}.")
    check_tree_is_clean(repo)
    changelog = (repo / "CHANGELOG.md").read_text()
    notes = release_notes(changelog, stated)
    obstacles = obstacles_to_a_tag(repo, changelog, stated)
    if version and obstacles:
        raise ReleaseError(" Also, ".join(obstacles))

    shutil.rmtree(dist, ignore_errors=True)
    dist.mkdir()
    check_wheel(build_wheel(repo, dist))
    notes_file = dist / f"loggpt_stream-{stated}-notes.md"
    notes_file.write_text(notes)
    materials = dist / f"loggpt_stream-{stated}.cdx.json"
    materials.write_text(json.dumps(bill_of_materials(repo, stated), indent=2) + "\n")
    write_checksums(dist)

    tag = ["git", "tag", "--annotate", "--cleanup=whitespace", "--file", str(notes_file), f"v{stated}"]
    if version:
        subprocess.run(tag, cwd=repo, check=True)
        done = []
    else:
        done = [*(f"# not yet: {obstacle}" for obstacle in obstacles), f"make release VERSION={stated}"]
    return [*done, f"git push origin v{stated}"]


def _git(repo: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=repo, check=True, stdout=subprocess.PIPE, text=True).stdout.rstrip()


def main(arguments: list[str] | None = None) -> int:
    """Prepare a release of this repository, and say what is left to do."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--version", help="tag this version, which must be the one that the package states")
    version = parser.parse_args(arguments).version
    dist = REPO / "dist"
    try:
        left_to_do = prepare(REPO, dist, version or None)
    except ReleaseError as error:
        print(f"release: {error}", file=sys.stderr)
        return 1
    print("In dist/:", *(f"    {file.name}" for file in sorted(dist.iterdir())), sep="\n")
    print("Nothing was pushed. To publish:", *(f"    {command}" for command in left_to_do), sep="\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
