"""One small HTTP port: /metrics, /health/live and /health/ready."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Final

import orjson
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from loggpt_stream.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable, Iterator

    from prometheus_client import CollectorRegistry

STALLED_AFTER_S: Final = 60.0
_SILENT_CLIENT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was last seen of one thing: how far it is, since when it has stood there though there is work."""

    what: str
    at: object
    since_s: float | None


class ProgressWatch:
    """Tells what stands still though there is work for it. Consumers have been seen to hang without any error.

    Written by the event loop, read by the HTTP thread.
    """

    def __init__(self, stuck_after_s: float) -> None:
        """stuck_after_s: so long a thing may stand still."""
        self._stuck_after_s = stuck_after_s
        self._seen: dict[Hashable, _Seen] = {}
        self._told: set[Hashable] = set()

    def see(self, name: Hashable, what: str, at: object, now_s: float, *, waits: bool) -> None:
        """Note how far a thing is. what: said if it stands still. waits: there is work, and nothing in its way."""
        before = self._seen.get(name)
        since_s = now_s if waits else None
        if waits and before is not None and before.since_s is not None and (before.what, before.at) == (what, at):
            since_s = before.since_s
        self._seen[name] = _Seen(what, at, since_s)

    def forget(self, name: Hashable) -> None:
        """Begin anew with one thing."""
        self._seen.pop(name, None)

    def keep_only(self, partitions: Collection[Hashable]) -> None:
        """Forget every partition but these; what has a name of text is no partition."""
        for name in [name for name in self._seen if not isinstance(name, str) and name not in partitions]:
            self.forget(name)

    def stuck(self, now_s: float) -> dict[Hashable, tuple[str, float]]:
        """Return what stands still, in words, and since when (epoch seconds), by name."""
        return {
            name: (seen.what, seen.since_s)
            for name, seen in list(self._seen.items())
            if seen.since_s is not None and now_s - seen.since_s >= self._stuck_after_s
        }

    def news(self, now_s: float) -> list[tuple[str, float]]:
        """Return what has come to stand still since the last call, likewise."""
        stuck = self.stuck(now_s)
        new = [said for name, said in stuck.items() if name not in self._told]
        self._told = set(stuck)
        return new


@dataclass(slots=True)
class Health:
    """What the probes answer from. Written by the event loop, read by the HTTP thread.

    last_turn_s: when the main loop last came round. broker_up: the broker answered the last question. partitions: how
    many are assigned (None before the group's first assignment).
    """

    last_turn_s: float
    progress: ProgressWatch = field(default_factory=lambda: ProgressWatch(STALLED_AFTER_S))
    broker_up: bool = False
    partitions: int | None = None
    stopping: bool = False

    def live(self, now_s: float) -> dict[str, object]:
        """Return the liveness report.

        It holds `"ok": False` once the main loop has stalled, or something stands still though the broker answers. A
        broker that is away is no reason to be started anew, and the scorer has a time limit of its own.
        """
        age_s = now_s - self.last_turn_s
        stuck = [
            {"what": what, "since": datetime.fromtimestamp(since_s, UTC).isoformat(timespec="seconds")}
            for what, since_s in self.progress.stuck(now_s).values()
        ]
        ok = age_s < STALLED_AFTER_S and not stuck
        return {"ok": ok, "seconds_since_last_turn": round(age_s, 3), "stuck": stuck}

    def ready(self) -> dict[str, object]:
        """Return the readiness report: broker answers, and the group has given its assignment (maybe no partition)."""
        ok = self.broker_up and self.partitions is not None and not self.stopping
        return {"ok": ok, "broker_up": self.broker_up, "partitions": self.partitions, "stopping": self.stopping}


@contextmanager
def serve(
    host: str, port: int, registry: CollectorRegistry, health: Health, clock: Callable[[], float]
) -> Iterator[int]:
    """Serve until the block ends, on a thread of its own; yield the port.

    Raises `UserError` where the port cannot be had.
    """

    class Answers(BaseHTTPRequestHandler):
        timeout = _SILENT_CLIENT_S  # each connection has a thread

        def do_GET(self) -> None:
            if self.path == "/metrics":
                self._answer(200, CONTENT_TYPE_LATEST, generate_latest(registry))
            elif self.path in ("/health/live", "/health/ready"):
                report = health.live(clock()) if self.path.endswith("live") else health.ready()
                self._answer(200 if report["ok"] else 503, "application/json", orjson.dumps(report))
            else:
                self._answer(404, "text/plain", b"there are /metrics, /health/live and /health/ready\n")

        def _answer(self, status: int, content_type: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Probes come every few seconds: they are not news."""

    try:
        server = ThreadingHTTPServer((host, port), Answers)
    except OSError as error:
        raise UserError(f"http_port {port} on {host}: {error.strerror}. Choose another with --http-port.") from error
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="http", daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
