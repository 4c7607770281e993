"""Daemon processes that start fast: forked from one that has imported everything already.

    with Zygote() as zygote:
        daemon = DaemonProcess(folder, flags, start=zygote.start)

Importing PyTorch costs each process many seconds; a fork costs milliseconds. A fork is a process of its own in all that
a fault test asks of one: session, signals, exit code, standard error, random numbers. It can be started with a
failpoint (`faults.failpoints`) and in another network namespace (`faults.netns`).

The forks are made before there is any second thread: one that held a lock would not be in the child to release it.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from faults.failpoints import Failpoint, arm, daemon_targets
from loggpt_stream.settings import ENV_PREFIX

if TYPE_CHECKING:
    from collections.abc import Sequence

_PR_SET_PDEATHSIG: Final = 1
_CLONE_NEWNET: Final = 0x40000000
_START_TIMEOUT_S: Final = 180.0
_FORK_TIMEOUT_S: Final = 30.0
_REPO: Final = Path(__file__).parent.parent
# Imported before the first fork. What a daemon imports only when it runs is here too.
_PRELOAD: Final = (
    "loggpt_stream.cli",
    "loggpt_stream.commands.run",
    "loggpt_stream.daemon.process",
    "loggpt_stream.commands.doctor",
    "loggpt_stream.checks.kafka",
)


class Fork:
    """A forked process, to be used as `subprocess.Popen` is."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ended = threading.Event()

    def poll(self) -> int | None:
        """Return the exit code, minus the signal's number where one ended it, or None while it runs."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return its exit code. Raises `subprocess.TimeoutExpired` after `timeout` seconds."""
        if not self._ended.wait(timeout) or self.returncode is None:
            raise subprocess.TimeoutExpired(f"fork {self.pid}", timeout or 0.0)
        return self.returncode

    def send_signal(self, sig: int) -> None:
        """Send a signal; nothing where it has ended."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, sig)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def has_ended(self, returncode: int) -> None:
        """Note its end, which the zygote saw."""
        self.returncode = returncode
        self._ended.set()


@dataclass(frozen=True, slots=True)
class _Wish:
    """What the zygote is asked for: `loggpt-stream` with these arguments, its output in a file.

    environment: settings in it; the rest is the zygote's own.
    """

    arguments: tuple[str, ...]
    log_path: str
    environment: dict[str, str]
    netns: str | None = None
    failpoint: Failpoint | None = None

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_json(cls, line: bytes) -> Self:
        values: dict[str, Any] = json.loads(line)
        failpoint = values["failpoint"]
        return cls(
            tuple(values["arguments"]),
            values["log_path"],
            values["environment"],
            values["netns"],
            None if failpoint is None else Failpoint(**failpoint),
        )


class Zygote:
    """The process that forks, from `with` to the end of its block. It takes its forks with it, however it ends."""

    def __init__(self, preload: Sequence[str] = _PRELOAD) -> None:
        self._preload = list(preload)
        self._forks: dict[int, Fork] = {}
        self._lock = threading.Lock()
        self._answered = threading.Condition(self._lock)
        self._answers: list[int] = []
        self._process: subprocess.Popen[bytes]
        self._reader: threading.Thread

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "testing.fork_server", *self._preload],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            cwd=_REPO,
            start_new_session=True,  # Ctrl-C is for the one that started it, with whose end this one ends
        )
        self._reader = threading.Thread(target=self._read, name="zygote-reader", daemon=True)
        self._reader.start()
        self._take_answer(_START_TIMEOUT_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()

    def start(
        self, arguments: Sequence[str], log_path: Path, *, netns: str | None = None, failpoint: Failpoint | None = None
    ) -> Fork:
        """Return a new process of `loggpt-stream` with these arguments and its output in a file."""
        log_path.write_bytes(b"")  # it is there for whoever looks, before the fork has got so far
        environment = {name: value for name, value in os.environ.items() if name.startswith(ENV_PREFIX)}
        wish = _Wish(tuple(arguments), str(log_path.absolute()), environment, netns, failpoint)
        if self._process.stdin is None:
            raise ValueError("the zygote has no standard input")
        self._process.stdin.write(wish.to_json())
        self._process.stdin.flush()
        pid = self._take_answer(_FORK_TIMEOUT_S)
        with self._lock:
            return self._forks[pid]

    def _take_answer(self, timeout_s: float) -> int:
        with self._answered:
            if not self._answered.wait_for(lambda: bool(self._answers), timeout_s):
                raise TimeoutError(f"the zygote did not answer within {timeout_s:.0f} s")
            pid = self._answers.pop(0)
        if pid < 0:
            raise RuntimeError("the zygote ended; what it said is on standard error")
        return pid

    def _read(self) -> None:
        """Read what the zygote reports until its end."""
        for line in self._process.stdout or ():
            word, *numbers = line.split()
            with self._answered:
                if word == b"ended":
                    self._forks[int(numbers[0])].has_ended(int(numbers[1]))
                    continue
                pid = int(numbers[0])
                self._forks[pid] = Fork(pid)
                self._answers.append(pid)
                self._answered.notify()
        with self._answered:
            for fork in self._forks.values():
                if fork.returncode is None:
                    fork.has_ended(-signal.SIGKILL)
            self._answers.append(-1)
            self._answered.notify()


def serve(preload: Sequence[str]) -> _Wish | None:
    """Fork for each wish on standard input until it ends. Return None there, and in each child its wish."""
    libc = ctypes.CDLL(None, use_errno=True)
    for name in preload:
        __import__(name)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)
    gc.collect()
    gc.freeze()
    here = os.getpid()
    woken, wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wakes)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    _report(f"ready {here}")
    waiting = b""
    with selectors.DefaultSelector() as selector:
        selector.register(0, selectors.EVENT_READ)
        selector.register(woken, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fd == woken:
                    os.read(woken, 4096)
                    _reap()
                    continue
                came = os.read(0, 65536)
                if not came:
                    return None
                *lines, waiting = (waiting + came).split(b"\n")
                for line in lines:
                    wish = _Wish.from_json(line)
                    pid = _fork()
                    if pid == 0:
                        os.close(woken)
                        os.close(wakes)
                        return _become(wish, here, libc)
                    _report(f"forked {pid}")


def _fork() -> int:
    threads = list(Path("/proc/self/task").iterdir())
    if len(threads) != 1:
        raise RuntimeError(f"a process with {len(threads)} threads must not fork: one of them may hold a lock")
    return os.fork()


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            _report(f"ended {found[0]} {os.waitstatus_to_exitcode(found[1])}")


def _report(line: str) -> None:
    os.write(1, f"{line}\n".encode())


def _become(wish: _Wish, parent: int, libc: ctypes.CDLL) -> _Wish:
    """Make a fresh fork a process of its own, and return its wish."""
    os.setsid()
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # it ended before we asked to end with it
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    log = os.open(wish.log_path, os.O_WRONLY | os.O_APPEND)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(log)
    os.close(null)
    # The standard library's own generator is seeded anew by every fork.
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()
    for name in [name for name in os.environ if name.startswith(ENV_PREFIX)]:
        del os.environ[name]
    os.environ.update(wish.environment)
    if wish.netns is not None:
        netns = os.open(f"/var/run/netns/{wish.netns}", os.O_RDONLY)
        if libc.setns(netns, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"network namespace {wish.netns}")
        os.close(netns)
    if wish.failpoint is not None:
        # The package is for a failpoint that stands for all.
        arm(wish.failpoint, daemon_targets())
    return wish


def main() -> None:
    """Be the zygote, or what was forked from it."""
    wish = serve(sys.argv[1:])
    if wish is None:
        return
    code = 1
    try:
        from loggpt_stream import cli  # noqa: PLC0415 - a zygote that never forks need not have it

        sys.argv[:] = ["loggpt-stream", *wish.arguments]
        code = cli.main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001 - said as the interpreter says it
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    # Not through the interpreter's end, which would take apart what the zygote imported.
    os._exit(code)


if __name__ == "__main__":
    main()
