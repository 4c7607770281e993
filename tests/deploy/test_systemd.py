from __future__ import annotations

import configparser
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.conftest import skip_or_fail

REPO = Path(__file__).parent.parent.parent
UNIT = REPO / "deploy" / "systemd" / "loggpt-stream.service"
PROGRAMS = "/opt/loggpt-stream/bin"


@pytest.fixture
def analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        skip_or_fail("needs systemd-analyze: install systemd")
    return str(found)


def installed(tmp_path: Path, text: str) -> Path:
    """Write the unit with PROGRAMS moved to a folder that holds a stand-in: systemd insists that the program exists."""
    program = tmp_path / "bin" / "loggpt-stream"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / UNIT.name
    unit.write_text(text.replace(PROGRAMS, str(program.parent)))
    return unit


def complaints(analyze: str, unit: Path) -> str:
    told = subprocess.run([analyze, "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False)
    # It exits 0 even where it ignored a line it did not understand: only silence is consent.
    return "\n".join(line for line in (told.stdout + told.stderr).splitlines() if unit.name in line)


def security(analyze: str, unit: Path, *, threshold: int) -> subprocess.CompletedProcess[str]:
    """Have systemd judge how exposed a unit is, in tenths: 0 is the most confined and 100 the least."""
    command = [analyze, "security", "--offline=true", "--no-pager", f"--threshold={threshold}", str(unit)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def service() -> configparser.SectionProxy:
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(UNIT)
    return unit["Service"]


def test_systemd_has_nothing_to_say_about_the_unit(analyze: str, tmp_path: Path) -> None:
    assert complaints(analyze, installed(tmp_path, UNIT.read_text())) == ""


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("ProtectHome=yes", "ProtectHome=perhaps"),
        ("NoNewPrivileges=yes", "NoNewPrivilege=yes"),
        (f"ExecStart={PROGRAMS}/loggpt-stream", f"ExecStart={PROGRAMS}/no-such-program"),
    ],
)
def test_systemd_finds_a_broken_line(analyze: str, tmp_path: Path, right: str, wrong: str) -> None:
    text = UNIT.read_text()
    assert right in text
    assert complaints(analyze, installed(tmp_path, text.replace(right, wrong))) != ""


def test_the_service_is_well_confined(analyze: str, tmp_path: Path) -> None:
    told = security(analyze, installed(tmp_path, UNIT.read_text()), threshold=25)
    assert told.returncode == 0, told.stdout[-200:] + told.stderr


def test_it_starts_a_program_that_the_package_installs() -> None:
    program, *arguments = service()["ExecStart"].split()
    scripts = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["scripts"]
    assert Path(program).parent == Path(PROGRAMS)
    assert Path(program).name in scripts
    assert arguments == ["run", "--config", "/etc/loggpt-stream/daemon.yaml"]


def test_it_is_given_a_minute_to_finish_and_comes_back_after_a_crash() -> None:
    assert service()["TimeoutStopSec"] == "60"
    assert service()["KillSignal"] == "SIGTERM"
    assert service()["Restart"] == "on-failure"


def test_secrets_come_from_a_file_and_not_from_the_unit() -> None:
    assert service()["EnvironmentFile"] == "-/etc/loggpt-stream/secrets.env"
    assert "PASSWORD" not in UNIT.read_text().upper().replace("SECRETS (LOGGPT_KAFKA__PASSWORD", "")


def test_code_generated_by_pytorch_may_run() -> None:
    assert "MemoryDenyWriteExecute" not in service()
