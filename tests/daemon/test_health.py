"""The HTTP port: metrics, liveness, readiness."""

from __future__ import annotations

import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import orjson
import pytest

from loggpt_stream.daemon.health import STALLED_AFTER_S, Health, serve
from loggpt_stream.daemon.metrics import Metrics
from loggpt_stream.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable


def get(port: int, path: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def asked(health: Health, path: str, now: Callable[[], float] = lambda: 1000.0) -> tuple[int, bytes]:
    with serve("127.0.0.1", 0, Metrics().registry, health, now) as port:
        return get(port, path)


def test_live_while_the_main_loop_comes_round() -> None:
    assert asked(Health(last_turn_s=999.0), "/health/live")[0] == 200


def test_not_live_once_the_main_loop_has_stalled() -> None:
    status, body = asked(Health(last_turn_s=1000.0 - STALLED_AFTER_S), "/health/live")
    assert status == 503
    assert orjson.loads(body)["seconds_since_last_turn"] == STALLED_AFTER_S


@pytest.mark.parametrize(
    ("health", "status"),
    [
        (Health(0.0, broker_up=True, partitions=4), 200),
        (Health(0.0, broker_up=True, partitions=0), 200),
        (Health(0.0, broker_up=True, partitions=None), 503),
        (Health(0.0, broker_up=False, partitions=4), 503),
        (Health(0.0, broker_up=True, partitions=4, stopping=True), 503),
    ],
)
def test_ready_needs_the_broker_and_an_assignment(health: Health, status: int) -> None:
    assert asked(health, "/health/ready")[0] == status


def test_metrics_name_every_figure_that_operators_watch() -> None:
    status, body = asked(Health(0.0), "/metrics")
    assert status == 200
    for name in ("records_total", "sessions_open", "sessions_pending", "batch_sessions_bucket", "score_seconds_bucket"):
        assert f"loggpt_{name}".encode() in body


def test_other_paths_say_which_there_are() -> None:
    status, body = asked(Health(0.0), "/")
    assert status == 404
    assert b"/health/ready" in body


def test_a_taken_port_is_an_error_that_says_what_to_do() -> None:
    metrics = Metrics()
    with (
        serve("127.0.0.1", 0, metrics.registry, Health(0.0), lambda: 0.0) as port,
        pytest.raises(UserError, match=f"{port}.*--http-port"),
        serve("127.0.0.1", port, metrics.registry, Health(0.0), lambda: 0.0),
    ):
        raise AssertionError
