from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from scripts import release

REPO = Path(__file__).parent.parent
CHANGELOG = """# Changelog

## [Unreleased]

## [1.1.0] - 2026-11-30

### Added

- A thing.

## [1.0.0] - 2026-11-01

- All of it.

[1.0.0]: https://example.org/1.0.0
"""


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a repository with one commit, as far as the checks before the build look at one."""
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "A Tester")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "tester@example.org")
    folder = tmp_path / "repo"
    (folder / "loggpt_stream").mkdir(parents=True)
    (folder / "loggpt_stream" / "__init__.py").write_text('"""A package."""\n\n__version__ = "1.1.0"\n')
    (folder / "CHANGELOG.md").write_text(CHANGELOG)
    git(folder, "init", "--quiet")
    commit(folder)
    return folder


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout


def commit(folder: Path) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "A commit")


def test_this_version_is_in_the_changelog_or_is_being_written_there() -> None:
    sections = release.changelog_sections((REPO / "CHANGELOG.md").read_text())
    version = release.package_version(REPO)
    date, entries = sections.get(version, (None, ""))
    assert (date and entries) or sections["Unreleased"][1], f"CHANGELOG.md says nothing of {version}"


def test_sections_of_this_changelog_are_dated_except_for_what_is_unreleased() -> None:
    sections = release.changelog_sections((REPO / "CHANGELOG.md").read_text())
    assert next(iter(sections)) == "Unreleased"
    assert {name for name, (date, _) in sections.items() if date is None} == {"Unreleased"}


def test_the_version_is_read_without_importing_the_package(repo: Path) -> None:
    assert release.package_version(repo) == "1.1.0"


def test_notes_are_the_section_of_the_version_and_no_other() -> None:
    assert (
        release.release_notes(CHANGELOG, "1.1.0") == "# loggpt-stream 1.1.0 (2026-11-30)\n\n### Added\n\n- A thing.\n"
    )
    assert release.release_notes(CHANGELOG, "1.0.0").endswith("\n\n- All of it.\n")


@pytest.mark.parametrize(
    "changelog",
    [
        "# Changelog\n\n## [1.0.0] - 2026-11-01\n\n- All of it.\n",
        "# Changelog\n\n## [1.1.0]\n\n- No date.\n",
        "# Changelog\n\n## [1.1.0] - 2026-11-30\n\n## [1.0.0] - 2026-11-01\n\n- All of it.\n",
    ],
    ids=["no section", "no date", "no entries"],
)
def test_a_version_that_the_changelog_does_not_describe_is_not_released(changelog: str) -> None:
    with pytest.raises(release.ReleaseError, match=r"no section '## \[1\.1\.0\]"):
        release.release_notes(changelog, "1.1.0")


@pytest.mark.parametrize("change", ["edit", "new file"])
def test_a_tree_with_changes_is_not_released(repo: Path, change: str) -> None:
    release.check_tree_is_clean(repo)
    name = "CHANGELOG.md" if change == "edit" else "notes.txt"
    (repo / name).write_text("changed")
    with pytest.raises(release.ReleaseError, match=name):
        release.prepare(repo, repo / "dist", None)
    assert not (repo / "dist").exists()


def test_another_version_than_the_package_states_is_refused(repo: Path) -> None:
    with pytest.raises(release.ReleaseError, match=r"VERSION is 2\.0\.0, but .* says 1\.1\.0"):
        release.prepare(repo, repo / "dist", "2.0.0")


def test_a_version_is_tagged_once(repo: Path) -> None:
    git(repo, "tag", "v1.1.0")
    with pytest.raises(release.ReleaseError, match=r"the tag v1\.1\.0 exists"):
        release.prepare(repo, repo / "dist", "1.1.0")


def test_nothing_is_tagged_while_entries_are_unreleased(repo: Path) -> None:
    (repo / "CHANGELOG.md").write_text(CHANGELOG.replace("## [Unreleased]\n", "## [Unreleased]\n\n- News.\n"))
    commit(repo)
    with pytest.raises(release.ReleaseError, match="entries under Unreleased"):
        release.prepare(repo, repo / "dist", "1.1.0")
    assert git(repo, "tag") == ""


def wheel(folder: Path, *names: str) -> Path:
    path = folder / "loggpt_stream-1.1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in (*names, "loggpt_stream-1.1.0.dist-info/METADATA"):
            archive.writestr(name, "")
    return path


WHOLE = tuple(f"{package}/py.typed" for package in release.SHIPPED)


def test_a_whole_wheel_passes(tmp_path: Path) -> None:
    release.check_wheel(wheel(tmp_path, *WHOLE))


@pytest.mark.parametrize("package", ["tests", "testing", "faults", "benchmarks", "scripts"])
def test_a_wheel_with_what_users_do_not_need_is_refused(tmp_path: Path, package: str) -> None:
    with pytest.raises(release.ReleaseError, match=rf"\b{package}\b"):
        release.check_wheel(wheel(tmp_path, *WHOLE, f"{package}/__init__.py"))


@pytest.mark.parametrize("package", release.SHIPPED)
def test_a_wheel_without_a_type_marker_is_refused(tmp_path: Path, package: str) -> None:
    names = [name for name in WHOLE if not name.startswith(f"{package}/")]
    with pytest.raises(release.ReleaseError, match=f"lacks {package}/py.typed"):
        release.check_wheel(wheel(tmp_path, *names, f"{package}/__init__.py"))


def test_every_package_that_is_shipped_has_its_type_marker_in_the_package_data() -> None:
    data = tomllib.loads((REPO / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    for package in release.SHIPPED:
        assert "py.typed" in data[package]
        assert (REPO / package / "py.typed").exists()


def test_checksums_are_those_that_sha256sum_checks(tmp_path: Path) -> None:
    (tmp_path / "b.whl").write_bytes(b"wheel")
    (tmp_path / "a.tar.gz").write_bytes(b"source")
    release.write_checksums(tmp_path)
    assert (tmp_path / "SHA256SUMS").read_text() == (
        f"{hashlib.sha256(b'source').hexdigest()}  a.tar.gz\n{hashlib.sha256(b'wheel').hexdigest()}  b.whl\n"
    )


def materials(*versions: str) -> dict[str, Any]:
    """Return a bill as cyclonedx-py writes it for an environment."""
    names = ("web.client", "Shared_Part", "a-tool")
    return {
        "metadata": {"component": {"bom-ref": "root-component", "name": "loggpt-stream"}},
        "components": [
            {"bom-ref": f"{name}=={version}", "name": name, "version": version}
            for name, version in zip(names, versions, strict=True)
        ],
        "dependencies": [{"ref": "root-component", "dependsOn": ["a-tool==3.0"]}],
    }


NEEDS = {"": {"web-client"}, "web-client": {"shared-part"}, "shared-part": set[str]()}
LOCK = "a-tool==3.0\nweb-client==1.0 \\\n    --hash=x\nshared-part==2.0 ; os_name == 'posix'\n"


def test_the_bill_of_materials_lists_what_a_user_installs_and_no_tool() -> None:
    bill = release.runtime_only(materials("1.0", "2.0", "3.0"), NEEDS, LOCK, "1.1.0")
    assert [component["name"] for component in bill["components"]] == ["Shared_Part", "web.client"]
    assert bill["metadata"]["component"]["version"] == "1.1.0"
    assert bill["dependencies"] == [
        {"ref": "root-component", "dependsOn": ["web.client==1.0"]},
        {"ref": "Shared_Part==2.0", "dependsOn": []},
        {"ref": "web.client==1.0", "dependsOn": ["Shared_Part==2.0"]},
    ]


def test_a_bill_of_materials_of_other_versions_than_the_lock_has_is_refused() -> None:
    with pytest.raises(release.ReleaseError, match=r"Not as in requirements\.lock: shared-part 2\.1\."):
        release.runtime_only(materials("1.0", "2.1", "3.0"), NEEDS, LOCK, "1.1.0")


def test_what_a_user_needs_follows_markers_and_the_extras_that_were_asked_for() -> None:
    needs = release.runtime_needs(["pydantic-settings[yaml]>=2", "no-such-package>=1; python_version < '3'"])
    assert needs[""] == {"pydantic-settings"}
    assert {"pydantic", "python-dotenv", "pyyaml"} <= needs["pydantic-settings"]
    assert "pydantic-core" in needs["pydantic"]
    assert "boto3" not in needs["pydantic-settings"], "an extra that nobody asked for"
    assert "pyyaml" not in release.runtime_needs(["pydantic-settings>=2"])


@pytest.mark.slow
def test_a_release_of_this_tree_is_whole_and_tagged_here_only(repo: Path) -> None:
    version = release.package_version(REPO)
    shutil.rmtree(repo / "loggpt_stream")
    for name in git(REPO, "ls-files", "--cached", "--others", "--exclude-standard").splitlines():
        if (REPO / name).is_file():
            (repo / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPO / name, repo / name)
    (repo / "CHANGELOG.md").write_text(CHANGELOG.replace("1.1.0", version))
    commit(repo)
    # Left by an earlier build, where setuptools would take it up.
    (repo / "build" / "lib" / "testing").mkdir(parents=True)
    (repo / "build" / "lib" / "testing" / "__init__.py").touch()

    done = subprocess.run(
        [sys.executable, "scripts/release.py", "--version", version],
        cwd=repo,
        env=os.environ | {"PYTHONPATH": ""},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )

    dist = repo / "dist"
    assert {file.name for file in dist.iterdir()} == {
        f"loggpt_stream-{version}-py3-none-any.whl",
        f"loggpt_stream-{version}.tar.gz",
        f"loggpt_stream-{version}-notes.md",
        f"loggpt_stream-{version}.cdx.json",
        "SHA256SUMS",
    }
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=dist, check=True)
    text = (dist / f"loggpt_stream-{version}.cdx.json").read_text()
    bill = json.loads(text)
    assert JsonStrictValidator(SchemaVersion.from_version(bill["specVersion"])).validate_str(text) is None
    names = {component["name"] for component in bill["components"]}
    assert {"torch", "aiokafka"} <= names
    assert not {"pytest", "ruff", "mypy"} & names
    assert all(component.get("licenses") for component in bill["components"] if component["name"] == "torch")
    assert git(repo, "tag").split() == [f"v{version}"]
    assert "A thing." in git(repo, "tag", "--list", "--format=%(contents)")
    assert f"git push origin v{version}" in done.stdout
