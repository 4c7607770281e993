"""One small HTTP port: /metrics, /health/live and /health/ready."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Final

import orjson
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from loggpt_stream.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client import CollectorRegistry

STALLED_AFTER_S: Final = 60.0


@dataclass(slots=True)
class Health:
    """What the probes answer from. Written by the event loop, read by the HTTP thread.

    last_turn_s: when the main loop last came round. broker_up: the broker answered the last question. partitions: how
    many are assigned (None before the group's first assignment).
    """

    last_turn_s: float
    broker_up: bool = False
    partitions: int | None = None
    stopping: bool = False

    def live(self, now_s: float) -> dict[str, object]:
        """Return the liveness report; it holds `"ok": False` once the main loop has stalled."""
        age_s = now_s - self.last_turn_s
        return {"ok": age_s < STALLED_AFTER_S, "seconds_since_last_turn": round(age_s, 3)}

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
