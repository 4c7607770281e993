"""What becomes of errors, and what the tab key offers: the same in all three programs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from calibrate.cli import main as calibrate
from loggpt_stream import __version__
from loggpt_stream.cli import main as stream
from loggpt_stream.command import Command, Commands
from loggpt_stream.errors import UserError
from loggpt_stream.program import run_program
from loggpt_stream.settings import Settings
from trainer.cli import main as train

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BIN = Path(sys.executable).parent


def program(fails_with: BaseException | None) -> Command[Settings]:
    def run(_: Settings) -> int:
        if fails_with is not None:
            raise fails_with
        return 7

    return Command("program", "A program.", Settings, run)


def test_the_exit_code_of_a_command_is_that_of_the_program() -> None:
    assert run_program(program(None), []) == 7


def test_a_users_mistake_is_a_sentence_and_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_program(program(UserError("no \x1b[2J such thing")), []) == 2
    assert capsys.readouterr().err == "error: no \\x1b[2J such thing\n"


def test_ctrl_c_is_130_and_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_program(program(KeyboardInterrupt()), [], interrupted="go on") == 130
    assert capsys.readouterr().err == "go on\n"


@pytest.mark.parametrize("error", [RuntimeError("ours"), BrokenPipeError("of a socket")])
def test_a_mistake_of_ours_is_not_hidden(error: Exception) -> None:
    with pytest.raises(type(error)):
        run_program(program(error), [])


@pytest.mark.parametrize("argument", ["completion bash", "simulate --sessions 300 --start 2026-01-01"])
def test_nobody_reading_on_is_no_error(argument: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)  # before it writes anything: how fast either of them is makes no difference
    command = [str(BIN / "loggpt-stream"), *argument.split()]
    ended = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, "")


@pytest.mark.parametrize(
    ("main", "name"), [(stream, "loggpt-stream"), (train, "loggpt-train"), (calibrate, "loggpt-calibrate")]
)
def test_every_program_says_its_name_and_version(
    main: Callable[[Sequence[str]], int], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{name} {__version__}\n"


@pytest.mark.parametrize(
    ("main", "argv", "told"),
    [
        (stream, ["rum"], "no command 'rum'; did you mean run? See loggpt-stream --help"),
        (stream, ["dead-letters", "lst"], "no command 'lst'; did you mean list?"),
        (stream, ["dead-letters", "list", "--drift", "off"], "--drift: no such flag"),
        (stream, ["doctor", "--create-topic"], "--create-topic: no such flag; did you mean --create-topics?"),
        (train, ["--serach"], "--serach: no such flag; did you mean --search?"),
        (calibrate, ["evalaute", "--bundle", "b"], "no command 'evalaute'; did you mean evaluate?"),
    ],
)
def test_a_typo_names_what_was_meant(
    main: Callable[[Sequence[str]], int], argv: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    assert told in capsys.readouterr().err


def test_a_file_may_be_named_like_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evaluated").write_text("")
    commands = Commands("p", "", {"evaluate": lambda: program(None), "learn": lambda: program(None)}, default="learn")
    with pytest.raises(UserError, match="1 more argument"):
        commands.main(["evaluated"])


@pytest.mark.parametrize(
    ("line", "offered", "hidden"),
    [
        ("loggpt-stream ", {"run", "dead-letters", "completion"}, {"list"}),
        ("loggpt-stream dead-letters ", {"list", "explain", "reinject"}, {"run"}),
        ("loggpt-stream dead-letters list --", {"--limit", "--kafka.bootstrap"}, {"--drift", "--input-topic"}),
        ("loggpt-stream doctor --", {"--create-topics", "--bundle"}, {"--drift", "--early-every-s"}),
        ("loggpt-stream run --dri", {"--drift"}, {"--bundle"}),
        ("loggpt-train --search-", {"--search-minutes", "--search-trials"}, {"--out"}),
        ("loggpt-calibrate ", {"evaluate", "diagnose", "--held-out"}, {"run"}),
        ("loggpt-calibrate --held", {"--held-out"}, {"evaluate"}),
        ("loggpt-calibrate evaluate --", {"--group-column"}, {"--held-out"}),
    ],
)
def test_the_tab_key_completes_commands_and_flags(line: str, offered: set[str], hidden: set[str]) -> None:
    name = line.split(maxsplit=1)[0]
    # As bash does: it loads what we print, and calls the function that this names for the program.
    script = f"""
eval "$({BIN}/loggpt-stream completion bash)"
COMP_LINE={line!r} COMP_POINT={len(line)} COMP_TYPE=9 COMP_WORDS=({line}) COMP_CWORD=1
_python_argcomplete {name}
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    told = subprocess.run(
        ["bash", "--norc", "-c", script],
        env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    found = {word.strip() for word in told.stdout.splitlines()}
    assert offered <= found, told.stderr
    assert not hidden & found


def test_completing_loads_nothing_heavy() -> None:
    code = """
import os, sys
os._exit = lambda code: print([name for name in ("torch", "numpy", "scipy", "aiokafka") if name in sys.modules])
from loggpt_stream.cli import main
os.environ |= {"_ARGCOMPLETE": "1", "COMP_LINE": "loggpt-stream run --", "COMP_POINT": "20",
    "_ARGCOMPLETE_STDOUT_FILENAME": os.devnull}
try:
    main([])
except SystemExit:
    pass
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.splitlines()[0] == "[]"
