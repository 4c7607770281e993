"""A fork of the server is a process like any other."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from coverage import CoverageData

from faults.failpoints import Failpoint, daemon_targets, enumerate_points
from loggpt_stream import __version__
from testing.daemon_process import DaemonProcess, Topics, produce
from testing.fork_server import ForkServer

if TYPE_CHECKING:
    from loggpt_stream.model.bundle import Bundle
    from testing.kafka_server import KafkaServer

REPO = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--version"], 0, __version__),
        (["no-such-command"], 2, "error: no command 'no-such-command'"),
        (["run", "--bundle", "/nowhere"], 2, "error: There is no bundle at /nowhere"),
        (["run", "--no-such-flag"], 2, "error: --no-such-flag: no such flag"),
    ],
)
def test_a_fork_says_and_returns_what_the_command_does(
    fork_server: ForkServer, tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    fork = fork_server.start(arguments, tmp_path / "fork.log")
    assert fork.wait(60) == fork.poll() == code
    assert said in (tmp_path / "fork.log").read_text()
    fork.kill()  # what has ended is not signalled


def test_a_fork_has_the_settings_of_whoever_starts_it_and_not_those_of_the_one_before(
    fork_server: ForkServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGGPT_LOG_LEVEL", "deafening")
    assert fork_server.start(["run"], tmp_path / "first.log").wait(60) == 2
    monkeypatch.delenv("LOGGPT_LOG_LEVEL")
    assert fork_server.start(["run", "--bundle", "nowhere"], tmp_path / "second.log").wait(60) == 2
    said = [(tmp_path / name).read_text() for name in ("first.log", "second.log")]
    assert ["deafening" in each for each in said] == [True, False]


async def test_a_daemon_from_the_server_is_soon_ready_works_and_obeys_signals(
    kafka: KafkaServer, fork_server: ForkServer, bundle: Bundle, tmp_path: Path
) -> None:
    topics = await Topics.create(kafka.bootstrap)
    flags = [*topics.flags(), "--bundle", str(bundle.path)]
    with DaemonProcess(tmp_path, flags, start=fork_server.start) as daemon:
        await daemon.ready()
        process = psutil.Process(daemon.process.pid)
        assert os.getsid(process.pid) == process.pid
        daemon.process.send_signal(signal.SIGSTOP)
        while process.status() != psutil.STATUS_STOPPED:
            await asyncio.sleep(0.01)
        assert daemon.process.poll() is None
        daemon.process.send_signal(signal.SIGCONT)
        await produce(kafka.bootstrap, topics.input, [None, None])
        await daemon.reached("loggpt_dead_letters_total", 2)
        assert await daemon.terminate() == 0
    with DaemonProcess(tmp_path, flags, start=fork_server.start) as daemon:
        await daemon.ready()
        daemon.process.kill()
        assert daemon.process.wait(10) == -signal.SIGKILL


async def test_a_daemon_dies_at_the_failpoint_that_it_was_started_with(
    kafka: KafkaServer, fork_server: ForkServer, bundle: Bundle, tmp_path: Path
) -> None:
    topics = await Topics.create(kafka.bootstrap)
    poll = next(each for each in enumerate_points(daemon_targets()) if "getmany(" in each)
    start = partial(fork_server.start, failpoint=Failpoint(poll, "after", nth_hit=3))
    with DaemonProcess(tmp_path, [*topics.flags(), "--bundle", str(bundle.path)], start=start) as daemon:
        assert await asyncio.to_thread(daemon.process.wait, 60) == -signal.SIGKILL
        said = await daemon.saw("failpoint")
        assert (said["point"], said["hit"]) == (poll, 3)


def test_a_server_that_was_killed_is_started_again_and_what_ended_it_is_told(tmp_path: Path) -> None:
    with ForkServer(["json"]) as fork_server:
        waiting = fork_server.start(
            ["route", "--kafka.bootstrap", "127.0.0.1:9", "--http-port", "0"], tmp_path / "waiting.log"
        )
        killed = fork_server.pid
        os.kill(killed, signal.SIGKILL)
        assert waiting.wait(10) == -signal.SIGKILL
        with pytest.warns(RuntimeWarning, match=f"fork server {killed} was ended by SIGKILL"):
            fork = fork_server.start(["--version"], tmp_path / "fork.log")
        assert fork.wait(60) == 0
        assert fork_server.pid != killed
        # Nothing is told of the one that is there.
        assert fork_server.start(["--version"], tmp_path / "fork.log").wait(60) == 0


def test_a_server_that_cannot_start_tells_why() -> None:
    with pytest.raises(RuntimeError, match=r"ended with exit code 1(.|\n)*No module named 'no_such_module'"):
        ForkServer(["no_such_module"]).__enter__()


def test_a_server_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    fork_server = ForkServer(["json"])
    starting = threading.Thread(target=fork_server.__enter__)
    starting.start()
    starting.join()
    with fork_server:
        assert fork_server.start(["--version"], tmp_path / "fork.log").wait(60) == 0


async def test_a_fork_runs_the_code_that_is_to_make_it_misbehave_first(fork_server: ForkServer, tmp_path: Path) -> None:
    first = "import loggpt_stream.cli\nloggpt_stream.cli.main = lambda: print('misbehaved') or 7"
    fork = fork_server.start(["--version"], tmp_path / "fork.log", first=first)
    assert fork.wait(60) == 7
    assert (tmp_path / "fork.log").read_text() == "misbehaved\n"


_UNDER_COVERAGE = """
import pathlib, sys
from testing.fork_server import ForkServer
folder = pathlib.Path(sys.argv[1])
with ForkServer(["json"]) as fork_server:
    for measured in (True, False):
        log = folder / f"{measured}.log"
        fork_server.start(["--version"], log, measured=measured).wait(60)
"""


def measured(path: Path) -> set[str]:
    """Return the names of the files of which this coverage data says that lines were run."""
    data = CoverageData(basename=str(path))
    data.read()
    return {Path(name).name for name in data.measured_files() if data.lines(name)}


def test_the_coverage_of_a_fork_counts_unless_it_is_not_to(tmp_path: Path) -> None:
    rules = tmp_path / "coverage.toml"
    rules.write_text(
        f"""[tool.coverage.run]
source = ["{REPO}/loggpt_stream"]
patch = ["subprocess", "fork"]
parallel = true
data_file = "{tmp_path}/data"
"""
    )
    script = tmp_path / "script.py"
    script.write_text(_UNDER_COVERAGE)
    here = {"PYTHONPATH": str(REPO), "PATH": os.environ["PATH"]}
    command = [sys.executable, "-m", "coverage", "run", f"--rcfile={rules}", str(script), str(tmp_path)]
    subprocess.run(command, env=here, check=True, timeout=120)
    assert len([path for path in tmp_path.glob("data.*") if "cli.py" in measured(path)]) == 1
    assert (tmp_path / "True.log").read_text() == (tmp_path / "False.log").read_text() != ""


# It says the process id of a fork that has got so far as to wait for a broker.
_WITH_A_FORK = """
import pathlib, sys, time
from testing.fork_server import ForkServer
log = pathlib.Path(sys.argv[1])
with ForkServer(["json"]) as fork_server:
    fork = fork_server.start(sys.argv[2:], log)
    while b"route_starting" not in log.read_bytes() and fork.poll() is None:
        time.sleep(0.05)
    print(fork.pid, flush=True)
    time.sleep(300)
"""


def test_the_forks_end_with_the_server_and_the_server_with_who_started_it(tmp_path: Path) -> None:
    arguments = [str(tmp_path / "fork.log"), "route", "--kafka.bootstrap", "127.0.0.1:9", "--http-port", "0"]
    command = [sys.executable, "-c", _WITH_A_FORK, *arguments]
    with subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        fork = int(run.stdout.readline())
        fork_server, *forks = psutil.Process(run.pid).children(recursive=True)
        assert [each.pid for each in forks] == [fork], (tmp_path / "fork.log").read_text()
        run.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs([fork_server, *forks], timeout=10)
    for each in alive:
        each.kill()
    assert alive == []
