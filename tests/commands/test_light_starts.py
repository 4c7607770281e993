"""What a user gets wrong is told before anything is loaded that takes seconds to load."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "sklearn", "scipy", "matplotlib", "numpy", "aiokafka", "structlog", "optuna", "rich")
COMMANDS = (
    ("loggpt_stream.cli",),
    *(
        ("loggpt_stream.cli", *words.split())
        for words in (
            "run",
            "replay",
            "route",
            "simulate",
            "doctor",
            "demo",
            "dead-letters",
            "dead-letters list",
            "dead-letters explain",
            "dead-letters reinject",
            "completion",
            "completion bash",
        )
    ),
    ("trainer.cli",),
    ("calibrate.cli",),
    ("calibrate.cli", "evaluate"),
    ("calibrate.cli", "diagnose"),
)
# What each names that is not there, and what is said of it.
MISSING = {
    ("loggpt_stream.cli", "run"): (["--bundle", "nowhere"], "no bundle at nowhere"),
    ("loggpt_stream.cli", "replay"): (["--bundle", "nowhere", "x.log"], "no bundle at nowhere"),
    ("trainer.cli",): (["nowhere.log"], "nowhere.log: no such file"),
    ("calibrate.cli",): (["--bundle", "nowhere", "x.log"], "no bundle at nowhere"),
    ("calibrate.cli", "evaluate"): (["--bundle", "nowhere", "--labels", "x.csv", "x.log"], "no bundle at nowhere"),
    ("calibrate.cli", "diagnose"): (["--bundle", "nowhere", "x.log"], "no bundle at nowhere"),
}
CODE = """
import sys
from importlib import import_module

main = import_module(sys.argv[1]).main
for argv in {tries}:
    try:
        code = main(argv)
    except SystemExit as ended:
        code = ended.code
    print("code", code)
print("heavy", [name for name in {heavy} if name in sys.modules])
"""


def told_by(module: str, tries: list[list[str]]) -> subprocess.CompletedProcess[str]:
    code = CODE.format(tries=tries, heavy=HEAVY)
    return subprocess.run([sys.executable, "-c", code, module], capture_output=True, text=True, check=True)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_a_typo_and_a_missing_file_load_nothing_heavy(command: tuple[str, ...]) -> None:
    module, *words = command
    tries = [[*words, "--help"], [*words, "--hepl"], [*words, "--config", "nowhere.yaml"]]
    flags, said = MISSING.get(command, ([], ""))
    group = not words or words in (["dead-letters"], ["completion"])
    if group and module == "loggpt_stream.cli":
        tries = [[*words, "--help"], [*words, "runn"]]
    tries += [[*words, *flags]] if flags else []
    told = told_by(module, tries)
    codes = [line.split()[1] for line in told.stdout.splitlines() if line.startswith("code ")]
    assert codes == ["0", *["2"] * (len(tries) - 1)], told.stderr
    assert said in told.stderr
    assert told.stdout.splitlines()[-1] == "heavy []"


def test_what_the_doctor_finds_first_waits_for_nothing() -> None:
    code = f"""
import sys
from pathlib import Path
from loggpt_stream.checks.host import check_bundle
from loggpt_stream.checks.settings import DoctorSettings
import loggpt_stream.checks.doctor
print(check_bundle(DoctorSettings(bundle=Path("nowhere")))[0].found)
print([name for name in {HEAVY} if name in sys.modules])
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "no bundle at nowhere" in told.stdout
    assert told.stdout.splitlines()[-1] == "[]"
