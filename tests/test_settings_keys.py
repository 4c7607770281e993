"""Every settings class stands where the keys of all commands are looked for."""

from __future__ import annotations

import ast
from pathlib import Path

from loggpt_stream.daemon.settings import DaemonSettings
from loggpt_stream.settings import keys_of_all
from trainer.settings import TrainerSettings

ROOT = Path(__file__).parents[1]


def test_the_keys_of_every_program_are_known_and_so_are_their_aliases() -> None:
    assert keys_of_all() > {*DaemonSettings.model_fields, *TrainerSettings.model_fields}
    assert keys_of_all() > {"from", "from_time", "cost_miss", "limit", "dry_run", "rate", "speed", "scores"}
    assert "epochs" not in keys_of_all()  # of a group of settings


def test_settings_classes_are_in_modules_named_settings() -> None:
    elsewhere = []
    for package in ("loggpt_stream", "trainer", "calibrate"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                bases = node.bases if isinstance(node, ast.ClassDef) else []
                if any(ast.unparse(base).endswith("Settings") for base in bases) and path.name != "settings.py":
                    elsewhere.append(f"{path}: {ast.unparse(node)[:60]}")
    assert elsewhere == []
