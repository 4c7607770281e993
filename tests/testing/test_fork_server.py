"""A fork of the zygote is a process like any other."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from faults.failpoints import Failpoint, daemon_targets, enumerate_points
from loggpt_stream import __version__
from testing.daemon_process import DaemonProcess, Topics, produce

if TYPE_CHECKING:
    from loggpt_stream.model.bundle import Bundle
    from testing.fork_server import Zygote
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
    zygote: Zygote, tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    fork = zygote.start(arguments, tmp_path / "fork.log")
    assert fork.wait(60) == fork.poll() == code
    assert said in (tmp_path / "fork.log").read_text()
    fork.kill()  # what has ended is not signalled


def test_a_fork_has_the_settings_of_whoever_starts_it_and_not_those_of_the_one_before(
    zygote: Zygote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGGPT_LOG_LEVEL", "deafening")
    assert zygote.start(["run"], tmp_path / "first.log").wait(60) == 2
    monkeypatch.delenv("LOGGPT_LOG_LEVEL")
    assert zygote.start(["run", "--bundle", "nowhere"], tmp_path / "second.log").wait(60) == 2
    said = [(tmp_path / name).read_text() for name in ("first.log", "second.log")]
    assert ["deafening" in each for each in said] == [True, False]


async def test_a_daemon_from_the_zygote_is_soon_ready_works_and_obeys_signals(
    kafka: KafkaServer, zygote: Zygote, bundle: Bundle, tmp_path: Path
) -> None:
    topics = await Topics.create(kafka.bootstrap)
    flags = [*topics.flags(), "--bundle", str(bundle.path)]
    with DaemonProcess(tmp_path, flags, start=zygote.start) as daemon:
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
    with DaemonProcess(tmp_path, flags, start=zygote.start) as daemon:
        await daemon.ready()
        daemon.process.kill()
        assert daemon.process.wait(10) == -signal.SIGKILL


async def test_a_daemon_dies_at_the_failpoint_that_it_was_started_with(
    kafka: KafkaServer, zygote: Zygote, bundle: Bundle, tmp_path: Path
) -> None:
    topics = await Topics.create(kafka.bootstrap)
    poll = next(each for each in enumerate_points(daemon_targets()) if "getmany(" in each)
    start = partial(zygote.start, failpoint=Failpoint(poll, "after", nth_hit=3))
    with DaemonProcess(tmp_path, [*topics.flags(), "--bundle", str(bundle.path)], start=start) as daemon:
        assert await asyncio.to_thread(daemon.process.wait, 60) == -signal.SIGKILL
        said = await daemon.saw("failpoint")
        assert (said["point"], said["hit"]) == (poll, 3)


# It says the process id of a fork that has got so far as to wait for a broker.
_WITH_A_FORK = """
import pathlib, sys, time
from testing.fork_server import Zygote
log = pathlib.Path(sys.argv[1])
with Zygote(["json"]) as zygote:
    fork = zygote.start(sys.argv[2:], log)
    while b"route_starting" not in log.read_bytes() and fork.poll() is None:
        time.sleep(0.05)
    print(fork.pid, flush=True)
    time.sleep(300)
"""


def test_the_forks_end_with_the_zygote_and_the_zygote_with_who_started_it(tmp_path: Path) -> None:
    arguments = [str(tmp_path / "fork.log"), "route", "--kafka.bootstrap", "127.0.0.1:9", "--http-port", "0"]
    command = [sys.executable, "-c", _WITH_A_FORK, *arguments]
    with subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        fork = int(run.stdout.readline())
        zygote, *forks = psutil.Process(run.pid).children(recursive=True)
        assert [each.pid for each in forks] == [fork], (tmp_path / "fork.log").read_text()
        run.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs([zygote, *forks], timeout=10)
    for each in alive:
        each.kill()
    assert alive == []
