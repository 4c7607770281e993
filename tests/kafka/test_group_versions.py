"""Which format is written, by who is in the group: the newest that all read, and no sooner than that is settled."""

from __future__ import annotations

import pytest
import structlog

from loggpt_stream import __version__
from loggpt_stream.kafka.group_versions import CLIENT_ID, GroupVersions, Member

NEW = Member("a-1", CLIENT_ID, "/10.0.0.1")
OLD = Member("b-2", "loggpt-stream", "/10.0.0.2")


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.mark.parametrize(
    ("client_id", "reads_up_to"),
    [
        ("loggpt-stream", 1),
        ("loggpt-stream/0.2.0", 2),
        ("loggpt-stream/0.2.0.dev0", 2),
        ("loggpt-stream/1.0.0", 2),
        ("loggpt-stream/0.1.7", 1),
        ("something else", 1),
        (CLIENT_ID, 2),
    ],
)
def test_a_member_reads_what_the_version_in_its_client_id_reads(client_id: str, reads_up_to: int) -> None:
    assert Member("", client_id, "").reads_up_to == reads_up_to


def test_the_client_id_of_a_member_says_its_version() -> None:
    assert f"loggpt-stream/{__version__}" == CLIENT_ID


def test_as_long_as_a_member_reads_only_format_1_that_is_written_and_the_log_names_it() -> None:
    versions = GroupVersions(None, 300.0, Clock())
    with structlog.testing.capture_logs() as logs:
        versions.learn([NEW, OLD])
    assert versions.state_format() == 1
    (said,) = logs
    assert said["event"] == "state_format_held_back"
    assert said["members"] == ["loggpt-stream at /10.0.0.2, b-2"]


def test_the_newest_format_comes_once_every_member_has_read_it_for_long_enough() -> None:
    clock = Clock()
    versions = GroupVersions(None, 300.0, clock)
    versions.learn([NEW, OLD])
    versions.learn([NEW])
    assert versions.state_format() is None
    clock.now_s += 299
    versions.learn([NEW, NEW])
    assert versions.state_format() is None
    clock.now_s += 1
    assert versions.state_format() == 2


def test_an_old_member_that_comes_back_begins_that_time_anew() -> None:
    clock = Clock()
    versions = GroupVersions(None, 300.0, clock)
    versions.learn([NEW])
    clock.now_s += 299
    versions.learn([NEW, OLD])
    clock.now_s += 300
    assert versions.state_format() == 1
    versions.learn([NEW])
    assert versions.state_format() is None


def test_where_the_broker_does_not_say_every_state_stays_as_it_is_and_the_log_says_what_to_allow() -> None:
    clock = Clock()
    versions = GroupVersions(None, 300.0, clock)
    versions.learn([NEW])
    clock.now_s += 300
    with structlog.testing.capture_logs() as logs:
        versions.nobody_knows(TimeoutError())
    assert versions.state_format() is None
    assert logs[0]["event"] == "state_format_unknown"


@pytest.mark.parametrize("setting", [1, 2])
def test_what_the_operator_sets_is_written_whoever_is_there(setting: int) -> None:
    versions = GroupVersions(setting, 300.0, Clock())
    versions.learn([NEW, OLD])
    assert versions.state_format() == setting
