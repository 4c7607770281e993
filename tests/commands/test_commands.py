"""The commands: each teaches, unknown ones are errors, settings in files load."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
import pytest

import calibrate.cli
import trainer.cli
from loggpt_stream import cli
from loggpt_stream.daemon.settings import DaemonSettings
from loggpt_stream.route.settings import RouteSettings
from loggpt_stream.settings import load
from testing.tiny_bundle import NOVA34, tiny_bundle

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from loggpt_stream.model.bundle import Bundle

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "bundle", steps=5, alert_share=0.3)


@pytest.mark.parametrize(
    ("main", "argv", "taught"),
    [
        (cli.main, [], "loggpt-train"),
        (cli.main, ["run", "--help"], "SIGTERM"),
        (cli.main, ["replay", "--help"], "JSON lines"),
        (cli.main, ["route", "--help"], "never round robin"),
        (cli.main, ["simulate", "--help"], "--failure-share"),
        (cli.main, ["doctor", "--help"], "what to do"),
        (cli.main, ["dead-letters", "--help"], "back to the input topic"),
        (cli.main, ["dead-letters", "list", "--help"], "--limit"),
        (cli.main, ["dead-letters", "explain", "--help"], "what to do"),
        (cli.main, ["dead-letters", "reinject", "--help"], "exactly once"),
        (cli.main, ["demo", "--help"], "Ctrl-C"),
        (cli.main, ["completion", "--help"], "~/.bashrc"),
        (trainer.cli.main, ["--help"], "loggpt-calibrate"),
        (calibrate.cli.main, ["--help"], "--false-alarm-rate"),
        (calibrate.cli.main, ["evaluate", "--help"], "--select"),
        (calibrate.cli.main, ["diagnose", "--help"], "what to do"),
    ],
)
def test_help_teaches(
    main: Callable[[Sequence[str]], int], argv: list[str], taught: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with suppress(SystemExit):
        assert main(argv) == 0
    assert taught in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("target", ["demo", "real-run", "memory-run", "quality", "report"])
def test_what_make_starts_is_there(target: str) -> None:
    without_make = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    told = subprocess.run(
        ["make", target, "ARGS=--help"], cwd=ROOT, env=without_make, capture_output=True, text=True, check=False
    )
    assert (told.returncode, "usage:" in told.stdout) == (0, True), told.stderr


def test_an_unknown_command_names_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["start"]) == 2
    assert "run, replay, simulate, route, doctor, dead-letters, demo, completion" in capsys.readouterr().err


def test_a_users_mistake_is_one_line_and_not_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "--bundle", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.startswith("error: There is no bundle at")
    assert cli.main(["replay", "--shape", "xml", "x.log"]) == 2
    assert "no such shape; there are plain" in capsys.readouterr().err


def test_the_commented_daemon_yaml_loads_and_shows_the_defaults() -> None:
    from_file = load(DaemonSettings, ["--config", str(CONFIGS / "daemon.yaml")], prog="x", description="")
    assert from_file.model_copy(update={"config": None}) == DaemonSettings()


def test_the_commented_route_yaml_loads_and_shows_the_defaults() -> None:
    from_file = load(RouteSettings, ["--config", str(CONFIGS / "route.yaml")], prog="x", description="")
    assert from_file.model_copy(update={"config": None}) == RouteSettings()


@pytest.mark.slow
def test_replay_writes_alerts_and_scores_and_says_what_it_read(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, scores = tmp_path / "alerts.jsonl", tmp_path / "scores.jsonl"
    flags = ["--bundle", str(bundle.path), "--out", str(out), "--scores", str(scores)]
    assert cli.main(["replay", *flags, NOVA34]) == 0
    scored = [orjson.loads(line) for line in scores.read_bytes().splitlines()]
    alerts = [orjson.loads(line) for line in out.read_bytes().splitlines()]
    assert {each["id"] for each in scored if each["anomalous"]} == {each["event"]["id"] for each in alerts}
    assert 0 < len(alerts) < len(scored)
    assert "40252 records" in capsys.readouterr().err
