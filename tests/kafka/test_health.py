"""The HTTP port: metrics, liveness, readiness."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import orjson
import pytest

from loggpt_stream.daemon.metrics import Metrics
from loggpt_stream.errors import UserError
from loggpt_stream.kafka.health import STALLED_AFTER_S, Health, ProgressWatch, serve

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


def test_a_client_that_says_nothing_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loggpt_stream.kafka.health._SILENT_CLIENT_S", 0.1)
    with (
        serve("127.0.0.1", 0, Metrics().registry, Health(last_turn_s=999.0), lambda: 1000.0) as port,
        socket.create_connection(("127.0.0.1", port), timeout=10) as silent,
    ):
        assert silent.recv(1) == b""


def test_live_while_the_main_loop_comes_round() -> None:
    assert asked(Health(last_turn_s=999.0), "/health/live")[0] == 200


def test_not_live_once_the_main_loop_has_stalled() -> None:
    status, body = asked(Health(last_turn_s=1000.0 - STALLED_AFTER_S), "/health/live")
    assert status == 503
    assert orjson.loads(body)["seconds_since_last_turn"] == STALLED_AFTER_S


def seen(*steps: tuple[float, object, bool]) -> ProgressWatch:
    """Return what is known after looks at partition 3: when, how far it was, whether there was work for it."""
    progress = ProgressWatch(stuck_after_s=120)
    for now_s, position, waits in steps:
        progress.see(3, "partition 3 is behind and not read", position, now_s, waits=waits)
    return progress


def test_not_live_once_what_has_work_stands_still_and_the_report_names_it_and_since_when() -> None:
    health = Health(last_turn_s=1119.0, progress=seen((900, 6, True), (1000, 7, True), (1117, 7, True)))
    assert asked(health, "/health/live", lambda: 1119.9)[0] == 200
    status, body = asked(health, "/health/live", lambda: 1120.0)
    assert status == 503
    assert orjson.loads(body)["stuck"] == [
        {"what": "partition 3 is behind and not read", "since": "1970-01-01T00:16:40+00:00"}
    ]


@pytest.mark.parametrize(
    "steps",
    [
        [(1000, 7, True), (1100, 8, True)],
        [(1000, 7, True), (1100, 7, False)],
        [(1000, 7, False), (1100, 7, True)],
        [(1000, 7, True), (1050, 7, False), (1100, 7, True)],
        [(1000, 8, True), (1100, 7, True)],
    ],
    ids=["it gets on", "no work", "work came", "the broker was away", "it was set back"],
)
def test_live_while_it_gets_on_or_has_nothing_to_do(steps: list[tuple[float, object, bool]]) -> None:
    assert Health(last_turn_s=1200.0, progress=seen(*steps)).live(1200.0)["ok"]


def test_a_partition_that_is_ours_no_more_is_not_waited_for() -> None:
    progress = seen((1000, 7, True))
    progress.see("scorer", "closed sessions are not scored", 4, 1000, waits=True)
    progress.keep_only({3})
    assert len(progress.stuck(1200)) == 2
    progress.keep_only(set())
    assert list(progress.stuck(1200)) == ["scorer"]


def test_what_stands_still_is_news_once_until_it_gets_on() -> None:
    progress = seen((1000, 7, True))
    assert progress.news(1100) == []
    assert [since_s for _, since_s in progress.news(1120)] == [1000]
    assert progress.news(1130) == []
    progress.see(3, "partition 3 is behind and not read", 8, 1140, waits=True)
    assert progress.news(1140) == []
    assert len(progress.news(1260)) == 1


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
