"""Every shell command in README and docs is run, or a comment above it says why not; and those are parsed at least.

A block of commands (```sh, or ```console with `$ ` before them) is a story: it is run from its first line to its last
in a folder of its own, which holds what the pages take for granted: a calibrated bundle, logs, configs/ and deploy/.
Only names of places are replaced (`PLACES`), and the model is made small by environment variables (`SMALL`).

`<!-- not run: reason -->` above a block exempts it. Its commands of ours are then still given to the real argument
parser, so that a flag that is gone fails here.
"""

from __future__ import annotations

import asyncio
import gzip
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import pytest
from aiokafka import AIOKafkaProducer

from loggpt_stream.settings import Settings
from tests.conftest import skip_or_fail

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ROOT: Final = Path(__file__).resolve().parents[2]
# Reference pages are generated from the code; reports and decisions tell of the past.
NOT_READ: Final = ("decisions", "reports", "reference", "technical-report.md")
LANGUAGES: Final = {"sh", "console", "text", "yaml", "json", "toml", "python"}
OURS: Final = ("loggpt-stream", "loggpt-train", "loggpt-calibrate")

PLACES: Final = {"/var/log/nova/": "nova/"}
SMALL: Final = {
    "LOGGPT_MODEL__LAYERS": "1",
    "LOGGPT_MODEL__WIDTH": "32",
    "LOGGPT_MODEL__HEADS": "2",
    "LOGGPT_TRAINING__EPOCHS": "2",
    "LOGGPT_TRAINING__BATCH_TOKENS": "512",
    "LOGGPT_HTTP_PORT": "0",
    "LOGGPT_LOG_FORMAT": "json",
}
# Logs of three days, with the share of sessions that failed; their truth becomes labels.csv.
LOGS: Final = {"nova/nova.log": 0.0, "later.log": 0.1, "newest.log": 0.2}
SESSIONS: Final = 100  # with 60, calibrate rightly refuses so small a held-out part
START_TIMEOUT_S: Final = 90.0

_BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>[^>]*?) -->\s*?\n)?"
    r"^(?P<indent> *)```(?P<language>\w*)\n(?P<body>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_LOOKS_LIKE_A_COMMAND = re.compile(
    r"^(?: {4,}|\t)(?:\$ )?(?:loggpt-|make |kubectl |docker |python -m |\.venv/bin/|openssl )", re.MULTILINE
)


class RealKafka(Protocol):
    """What the fixture `kafka` gives, as far as it matters here."""

    @property
    def bootstrap(self) -> str:
        """Return the address of the broker."""


@dataclass(frozen=True)
class Block:
    """Commands of one block of a page, and why they are not run ("" where they are)."""

    page: str
    line: int
    commands: tuple[str, ...]
    reason: str

    @property
    def needs_broker(self) -> bool:
        """Tell whether a command talks to Kafka."""
        return any(re.search(r"kafka\.|kafka:|--config|loggpt-stream run", each) for each in self.commands)


def blocks_of(text: str, page: str) -> list[Block]:
    """Return the blocks of shell commands of a Markdown text."""
    found = []
    for match in _BLOCK.finditer(text):
        if match["language"] in ("sh", "console"):
            body = match["body"].replace("\\\n", " ")
            lines = [line.strip() for line in body.splitlines()]
            if match["language"] == "console":
                lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
            commands = tuple(line for line in lines if line and not line.startswith("#"))
            number = text.count("\n", 0, match.start("indent")) + 1
            found.append(Block(page, number, commands, (match["reason"] or "").strip()))
    return found


def pages() -> list[Path]:
    """Return README and the pages whose commands are checked."""
    docs = ROOT / "docs"
    others = (path for path in docs.rglob("*.md") if path.relative_to(docs).parts[0] not in NOT_READ)
    return [ROOT / "README.md", *sorted(others)]


BLOCKS: Final = [block for page in pages() for block in blocks_of(page.read_text(), str(page.relative_to(ROOT)))]
RUN: Final = [block for block in BLOCKS if not block.reason]


def cases(blocks: Sequence[Block]) -> list[object]:
    """Return blocks as parameters that are named by where they stand."""
    return [pytest.param(block, id=f"{block.page}:{block.line}") for block in blocks]


def main_of(program: str) -> Callable[[Sequence[str]], int]:
    """Return the function behind one of our commands."""
    (script,) = entry_points(group="console_scripts", name=program)
    main: Callable[[Sequence[str]], int] = script.load()
    return main


def ours(command: str) -> None:
    """Run a command of ours in this process; it must end with 0."""
    program, *arguments = command.split()
    assert main_of(program)(arguments) == 0, command


def simple(command: str) -> list[str] | None:
    """Return the words of a command of ours that needs no shell; None for any other."""
    words = shlex.split(command, comments=True)
    needs_shell = {"|", "&&", "||", ";", ">", "<"} & set(words)
    return words if words[0] in OURS and not needs_shell else None


# What the pages take for granted.


@pytest.fixture(scope="module")
def small() -> Iterator[pytest.MonkeyPatch]:
    """Make models small, here and in what is started from here."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SMALL.items():
            patch.setenv(name, value)
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        yield patch


@pytest.fixture(scope="module")
def home(small: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with logs, and a bundle that our own commands trained and calibrated on them."""
    assert os.environ.items() >= SMALL.items(), small
    home = tmp_path_factory.mktemp("home")
    (home / "nova").mkdir()
    (home / "configs").symlink_to(ROOT / "configs")
    (home / "deploy").symlink_to(ROOT / "deploy")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        for number, (log, failure_share) in enumerate(LOGS.items()):
            chosen = f"--sessions {SESSIONS} --failure-share {failure_share} --seed {number}"
            ours(f"loggpt-stream simulate {chosen} --start 2026-11-0{number + 1}T00:00 --output {log}")
        ours("loggpt-train --out bundle nova/")
        ours("loggpt-calibrate --bundle bundle --held-out nova/")
    tables = [Path(f"{home / log}.truth.csv") for log in LOGS]
    header = tables[0].read_text().splitlines()[0]
    rows = [row for table in tables for row in table.read_text().splitlines()[1:]]
    (home / "labels.csv").write_text("\n".join([header, *rows, ""]))
    for table in tables:
        table.unlink()
    # As if the demo had run here.
    (home / "demo-output").mkdir()
    shutil.copytree(home / "bundle", home / "demo-output" / "bundle")
    shutil.copy(home / "later.log", home / "demo-output" / "played.log")
    for log in ("later.log", "newest.log"):
        (home / f"{log}.gz").write_bytes(gzip.compress((home / log).read_bytes()))
    return home


@pytest.fixture
def workplace(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go to a copy of `home`: what a block leaves there is no other block's business."""
    workplace = tmp_path / "workplace"
    shutil.copytree(home, workplace, symlinks=True)
    monkeypatch.chdir(workplace)
    return workplace


@pytest.fixture(scope="module")
def broker(kafka: RealKafka, home: Path, small: pytest.MonkeyPatch) -> str:
    """Return the address of a broker with the default topics, some load, and a dead letter that the daemon made."""
    small.setenv("LOGGPT_KAFKA__BOOTSTRAP", kafka.bootstrap)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        for command in (
            "loggpt-stream route --create-topics --partitions 1",
            "loggpt-stream doctor --bundle bundle --create-topics",
            "loggpt-stream simulate --sessions 20 --output kafka:openstack-logs",
        ):
            ours(command)
        asyncio.run(_send_what_is_no_log(kafka.bootstrap))
        run_until(["loggpt-stream", "run", "--bundle", "bundle"], "dead_letter", home)
    return kafka.bootstrap


async def _send_what_is_no_log(bootstrap: str) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        await producer.send_and_wait("openstack-logs", b'{"message": "cut o', partition=0)


# How a command is run.


def run_until(words: Sequence[str], event: str, folder: Path) -> None:
    """Start a daemon or router, wait for a log event, ask it to end, and see that it ends well."""
    log = folder / "log.jsonl"
    with log.open("wb") as stream:
        process = subprocess.Popen(words, cwd=folder, stderr=stream)
    try:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while f'"{event}"' not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline_s, log.read_text()
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


def run(block: Block, places: dict[str, str], folder: Path) -> None:
    """Run a block's commands one after the other; each must end with 0."""
    for written in block.commands:
        command = written
        for place, ours in places.items():
            command = command.replace(place, ours)
        words = simple(command)
        if words is None:
            program = next(word for word in shlex.split(command, comments=True) if "=" not in word)
            if shutil.which(program) is None:
                skip_or_fail(f"needs {program}")
            done = subprocess.run(["bash", "-euo", "pipefail", "-c", command], cwd=folder, check=False)
            assert done.returncode == 0, written
        elif words[1] in ("run", "route") and "--create-topics" not in words:
            run_until(words, "partitions_assigned", folder)
        else:
            assert main_of(words[0])(words[1:]) == 0, written


@pytest.mark.slow
@pytest.mark.parametrize("block", cases([block for block in RUN if not block.needs_broker]))
def test_commands_that_need_no_broker_work(block: Block, workplace: Path) -> None:
    run(block, PLACES, workplace)


@pytest.mark.slow
@pytest.mark.parametrize("block", cases([block for block in RUN if block.needs_broker]))
def test_commands_that_need_a_broker_work(block: Block, kafka: RealKafka, broker: str, workplace: Path) -> None:
    assert broker == kafka.bootstrap  # the first fixture marks this test as one that needs Kafka
    run(block, {**PLACES, "broker:9092": broker}, workplace)


# What is not run.


class ParsedError(Exception):
    """A command's settings have been read without a mistake."""


def parse(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a command of ours read its flags, and no more. Fails where it does not take them."""
    words = shlex.split(command, comments=True)
    original = Settings.__init__

    def stop(self: Settings, **given: object) -> None:
        original(self, **given)  # type: ignore[arg-type]
        raise ParsedError

    monkeypatch.setattr(Settings, "__init__", stop)
    with pytest.raises(ParsedError):
        pytest.fail(f"{command}: ended with {main_of(words[0])(words[1:])} before its settings were read")


@pytest.mark.parametrize("block", cases([block for block in BLOCKS if block.reason]))
def test_commands_that_are_not_run_are_those_that_there_are(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in block.commands:
        words = shlex.split(command, comments=True)
        if words[0] in OURS:
            parse(command, monkeypatch)
            monkeypatch.undo()
        elif words[0] == "make":
            subprocess.run([*words, "--dry-run"], cwd=ROOT, check=True, capture_output=True)
        elif words[:2] == ["python", "-m"]:
            assert find_spec(words[2]), command


# That nothing escapes.


@pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in pages()])
def test_no_command_hides_where_this_test_does_not_look(page: Path) -> None:
    text = page.read_text()
    assert {match["language"] for match in _BLOCK.finditer(text)} <= LANGUAGES
    assert _LOOKS_LIKE_A_COMMAND.findall(_BLOCK.sub("", text)) == []


def test_a_mark_needs_a_reason_and_stands_above_its_own_block_only() -> None:
    reasoned = "<!-- not run: because -->\n```sh\na \\\n  b  # c\n```\n"
    bare = "```sh\nd\n```\n"
    empty = "<!-- not run:  -->\n```console\n$ e\nout\n```\n"
    found = blocks_of(reasoned + bare + empty, "page.md")
    assert [(block.commands, block.reason) for block in found] == [
        (("a    b  # c",), "because"),
        (("d",), ""),
        (("e",), ""),
    ]


def test_a_flag_that_is_gone_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises((SystemExit, pytest.fail.Exception)):
        parse("loggpt-stream replay --bundle bundle --no-such-flag x.log", monkeypatch)
    monkeypatch.undo()
    parse("loggpt-stream replay --bundle bundle --early x.log", monkeypatch)
