from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest

REPO = Path(__file__).parent.parent.parent
DOCKERFILE = REPO / "deploy" / "Dockerfile"
KNOWN = {"ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "RUN", "USER", "WORKDIR"}


def parse(text: str) -> list[tuple[str, str]]:
    """Return (instruction, arguments) for each line, comments dropped and continued lines joined.

    Raises:
        ValueError: a line is no known instruction with arguments, or an instruction stands before FROM.
    """
    joined = re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n", "", text))
    found: list[tuple[str, str]] = []
    for line in filter(None, map(str.strip, joined.splitlines())):
        word, _, rest = line.partition(" ")
        if word not in KNOWN or not rest.strip():
            raise ValueError(f"no Dockerfile instruction: {line}")
        if not found and word not in {"FROM", "ARG"}:
            raise ValueError(f"before FROM: {line}")
        found.append((word, rest.strip()))
    return found


LINES = parse(DOCKERFILE.read_text())
LAST_STAGE = LINES[max(place for place, (word, _) in enumerate(LINES) if word == "FROM") :]


def last(word: str) -> str:
    return [rest for known, rest in LAST_STAGE if known == word][-1]


def sources() -> list[str]:
    """Return what COPY takes from the repository."""
    copied = []
    for word, rest in LINES:
        if word == "COPY" and not rest.startswith("--from="):
            copied += shlex.split(rest)[:-1]
    return copied


@pytest.mark.parametrize("text", ["COPY a b\n", "FROM x\nCOPPY a b\n", "FROM x\nRUN\n"])
def test_the_parser_refuses_what_is_no_dockerfile(text: str) -> None:
    with pytest.raises(ValueError, match=r"FROM|instruction"):
        parse(text)


@pytest.mark.parametrize("source", sources())
def test_what_is_copied_exists_and_is_not_kept_from_the_build(source: str) -> None:
    assert (REPO / source).exists()
    allowed = (DOCKERFILE.parent / "Dockerfile.dockerignore").read_text().splitlines()
    assert f"!{Path(source)}" in allowed


def test_every_package_is_copied() -> None:
    packages = tomllib.loads((REPO / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {package.rstrip("*") for package in packages} <= {str(Path(source)) for source in sources()}


def test_a_stage_that_is_copied_from_exists() -> None:
    stages = {rest.split(" AS ")[1] for word, rest in LINES if word == "FROM" and " AS " in rest}
    wanted = {rest.split()[0].removeprefix("--from=") for word, rest in LINES if rest.startswith("--from=")}
    assert wanted
    assert wanted <= stages


def test_it_does_not_run_as_root() -> None:
    user = last("USER").split(":")[0]
    assert user.isdigit(), "Kubernetes' runAsNonRoot can only check a number"
    assert int(user) > 0


def test_it_starts_a_program_that_the_package_installs() -> None:
    scripts = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["scripts"]
    entry = json.loads(last("ENTRYPOINT"))
    assert entry == ["loggpt-stream"]
    assert entry[0] in scripts
    assert json.loads(last("CMD"))[0] == "run"


def test_versions_come_from_the_locks() -> None:
    installs = [rest for word, rest in LINES if word == "RUN" and "pip install" in rest]
    assert installs
    for install in installs:
        assert "requirements.lock" in install or "requirements-uv.lock" in install, install


def test_no_model_hub_is_asked() -> None:
    assert "HF_HUB_OFFLINE=1" in last("ENV")
