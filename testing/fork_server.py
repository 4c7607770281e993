"""Daemon processes that start fast: forked from one that has imported everything already.

    with ForkServer() as fork_server:
        daemon = DaemonProcess(folder, flags, start=fork_server.start)

Importing PyTorch costs each process many seconds; a fork costs milliseconds. A fork is a process of its own in all that
a fault test asks of one: session, signals, exit code, standard error, random numbers. It can be started with a
failpoint (`faults.failpoints`), in another network namespace (`faults.netns`), and after some code that makes something
of its own misbehave.

A server that ends before its time is started again by the next `start`, which warns of what ended it.

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
import tempfile
import threading
import traceback
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from faults.failpoints import Failpoint, arm, daemon_targets
from loggpt_stream.settings import ENV_PREFIX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coverage import Coverage

_PR_SET_PDEATHSIG: Final = 1
_CLONE_NEWNET: Final = 0x40000000
_START_TIMEOUT_S: Final = 180.0
_FORK_TIMEOUT_S: Final = 60.0
_STDERR_LINES: Final = 12
_REPO: Final = Path(__file__).parent.parent
# Imported before the first fork. What a daemon imports only when it runs is here too.
_PRELOAD: Final = (
    "loggpt_stream.cli",
    "loggpt_stream.commands.run",
    "loggpt_stream.daemon.process",
    "loggpt_stream.route.service",
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
        """Note its end, which the server saw."""
        self.returncode = returncode
        self._ended.set()


@dataclass(frozen=True, slots=True)
class ForkRequest:
    """What the server is asked for: `loggpt-stream` with these arguments, its output in a file.

    environment: settings in it; the rest is the server's own. netns: the network namespace to be in. failpoint: where
    it is to die. first: Python code that it runs first. measured: whether its coverage counts, where any is measured.
    """

    arguments: tuple[str, ...]
    log_path: str
    environment: dict[str, str]
    netns: str | None = None
    failpoint: Failpoint | None = None
    first: str = ""
    measured: bool = True

    def to_json(self) -> bytes:
        """Return it as one line of JSON."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_json(cls, line: bytes) -> Self:
        """Return what such a line says."""
        values: dict[str, Any] = json.loads(line)
        failpoint = values["failpoint"]
        values["failpoint"] = None if failpoint is None else Failpoint(**failpoint)
        return cls(**{**values, "arguments": tuple(values["arguments"])})


class _ServerEndedError(RuntimeError):
    """The server has ended; the message says how."""


class ForkServer:
    """The process that forks, from `with` to the end of its block. It takes its forks with it, however it ends."""

    def __init__(self, preload: Sequence[str] = _PRELOAD) -> None:
        self._preload = list(preload)
        # Of two that want a fork at a time, each is to get its own.
        self._in_turn = threading.Lock()
        self._server: _Server

    @property
    def pid(self) -> int:
        """Return the server's process id."""
        return self._server.process.pid

    def __enter__(self) -> Self:
        self._launch()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()

    def start(
        self,
        arguments: Sequence[str],
        log_path: Path,
        *,
        netns: str | None = None,
        failpoint: Failpoint | None = None,
        first: str = "",
        measured: bool = True,
    ) -> Fork:
        """Return a new process of `loggpt-stream` with these arguments and its output in a file.

        The rest is as in `ForkRequest`.
        """
        log_path.write_bytes(b"")  # it is there for whoever looks, before the fork has got so far
        environment = {name: value for name, value in os.environ.items() if name.startswith(ENV_PREFIX)}
        request = ForkRequest(
            tuple(arguments), str(log_path.absolute()), environment, netns, failpoint, first, measured
        )
        with self._in_turn:
            try:
                return self._server.fork(request)
            except _ServerEndedError as ended:
                warnings.warn(f"{ended}\nIt is started again.", RuntimeWarning, stacklevel=2)
                self._server.close()
                self._launch()
                return self._server.fork(request)

    def _launch(self) -> None:
        self._server = _Server(self._preload)
        self._server.take_answer(_START_TIMEOUT_S)


class _Server:
    """One process of a `ForkServer`, and what it says."""

    def __init__(self, preload: Sequence[str]) -> None:
        self._forks: dict[int, Fork] = {}
        self._answered = threading.Condition()
        self._answers: list[int] = []
        self._ended = False
        with tempfile.NamedTemporaryFile(prefix="fork-server-", suffix=".log", delete=False) as stderr:
            self._stderr = Path(stderr.name)
            self.process = subprocess.Popen(
                [sys.executable, "-m", "testing.fork_server", *preload],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                cwd=_REPO,
                # Ctrl-C is for the one that started it. With that one's end its standard input ends, and so does it.
                start_new_session=True,
            )
        self._reader = threading.Thread(target=self._read, name="fork-server-reader", daemon=True)
        self._reader.start()

    def close(self) -> None:
        """End it, where it has not ended, and its forks with it."""
        self.process.kill()
        self.process.wait()
        self._reader.join()
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
        self._stderr.unlink(missing_ok=True)

    def fork(self, request: ForkRequest) -> Fork:
        """Return the fork that was asked for. Raises `_ServerEndedError` where the server has ended."""
        if self.process.stdin is None:
            raise ValueError("the fork server has no standard input")
        try:
            self.process.stdin.write(request.to_json())
            self.process.stdin.flush()
        except BrokenPipeError:
            raise _ServerEndedError(self._how_it_ended()) from None
        pid = self.take_answer(_FORK_TIMEOUT_S)
        with self._answered:
            return self._forks[pid]

    def take_answer(self, timeout_s: float) -> int:
        """Return the process id that it reports next. Raises `_ServerEndedError` where it ended instead."""
        with self._answered:
            if not self._answered.wait_for(lambda: self._answers or self._ended, timeout_s):
                raise TimeoutError(f"the fork server did not answer within {timeout_s:.0f} s")
            if self._answers:
                return self._answers.pop(0)
        raise _ServerEndedError(self._how_it_ended())

    def _how_it_ended(self) -> str:
        code = self.process.wait()
        how = f"with exit code {code}" if code >= 0 else f"by {signal.Signals(-code).name}"
        said = self._stderr.read_text(errors="replace").splitlines()[-_STDERR_LINES:]
        return "\n".join([f"The fork server {self.process.pid} was ended {how}. Its standard error:", *said])

    def _read(self) -> None:
        """Read what it reports until its end."""
        for line in self.process.stdout or ():
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
            self._ended = True
            self._answered.notify()


def serve(preload: Sequence[str]) -> ForkRequest | None:
    """Fork for each request on standard input until it ends. Return None there, and in each child its request."""
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
                    request = ForkRequest.from_json(line)
                    pid = _fork()
                    if pid == 0:
                        os.close(woken)
                        os.close(wakes)
                        return _become(request, here, libc)
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


def _become(request: ForkRequest, parent: int, libc: ctypes.CDLL) -> ForkRequest:
    """Make a fresh fork a process of its own, and return its request."""
    os.setsid()
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # it ended before we asked to end with it
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    log = os.open(request.log_path, os.O_WRONLY | os.O_APPEND)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(log)
    os.close(null)
    if not request.measured and (measuring := _coverage()):
        measuring.stop()
    # The standard library's own generator is seeded anew by every fork.
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()
    for name in [name for name in os.environ if name.startswith(ENV_PREFIX)]:
        del os.environ[name]
    os.environ.update(request.environment)
    if request.netns is not None:
        netns = os.open(f"/var/run/netns/{request.netns}", os.O_RDONLY)
        if libc.setns(netns, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"network namespace {request.netns}")
        os.close(netns)
    if request.failpoint is not None:
        # The package is for a failpoint that stands for all.
        arm(request.failpoint, daemon_targets())
    return request


def _coverage() -> Coverage | None:
    """Return what measures coverage in this fork; it started anew with it (`patch` in pyproject.toml)."""
    module = sys.modules.get("coverage")
    return module.Coverage.current() if module else None


def main() -> None:
    """Be the server, or what was forked from it."""
    request = serve(sys.argv[1:])
    if request is None:
        return
    code = 1
    try:
        from loggpt_stream import cli  # noqa: PLC0415 - a server that never forks need not have it

        exec(request.first, {})  # noqa: S102 - a test's own code
        sys.argv[:] = ["loggpt-stream", *request.arguments]
        code = cli.main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001 - said as the interpreter says it
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if request.measured and (measuring := _coverage()):
        measuring.stop()
        measuring.save()
    # Not through the interpreter's end, which would take apart what the server imported.
    os._exit(code)


if __name__ == "__main__":
    main()
