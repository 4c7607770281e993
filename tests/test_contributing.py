from __future__ import annotations

from pathlib import Path

import pytest
import yaml

REPO = Path(__file__).parent.parent
TEMPLATES = sorted((REPO / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
MAX_WORDS = 1000


def test_contributing_can_be_read_in_a_few_minutes() -> None:
    assert len((REPO / "CONTRIBUTING.md").read_text().split()) <= MAX_WORDS


def test_hooks_are_local_and_run_the_pinned_tools() -> None:
    repos = yaml.safe_load((REPO / ".pre-commit-config.yaml").read_text())["repos"]
    assert {repo["repo"] for repo in repos} == {"local"}
    entries = [hook["entry"] for repo in repos for hook in repo["hooks"]]
    assert all(entry.startswith(".venv/bin/") for entry in entries)
    for word in " ".join(entries).split():
        if word.startswith("tests/"):
            assert (REPO / word).exists()


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_an_issue_template_asks_for_something_that_is_required(template: Path) -> None:
    form = yaml.safe_load(template.read_text())
    assert {"name", "description", "body"} <= form.keys()
    assert any(field.get("validations", {}).get("required") for field in form["body"])
    ids = [field["id"] for field in form["body"]]
    assert len(ids) == len(set(ids))
