"""Settings of a group's member that would do harm together are refused before anything starts."""

from __future__ import annotations

from itertools import combinations

import pytest

from loggpt_stream.daemon.settings import DaemonSettings
from loggpt_stream.errors import UserError
from loggpt_stream.route.settings import RouteSettings
from loggpt_stream.settings import load

OF_DAEMON = ("input_topic", "state_topic", "alert_topic", "dead_letter_topic", "score_topic")
OF_ROUTER = ("input_topic", "state_topic", "output_topic")
PAIRS = [
    *((DaemonSettings, *pair) for pair in combinations(OF_DAEMON, 2)),
    *((RouteSettings, *pair) for pair in combinations(OF_ROUTER, 2)),
]


@pytest.mark.parametrize(("cls", "one", "other"), PAIRS)
def test_one_topic_for_two_purposes_is_refused_naming_both_settings(
    cls: type[DaemonSettings | RouteSettings], one: str, other: str
) -> None:
    with pytest.raises(ValueError, match=rf"{one} and {other} are both same: .*--{other.replace('_', '-')}"):
        cls.model_validate({one: "same", other: "same"})


def test_a_topic_from_an_environment_that_is_shared_with_the_daemon_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGGPT_INPUT_TOPIC", "openstack-logs")
    told = r"^input_topic and output_topic are both openstack-logs: .*LOGGPT_OUTPUT_TOPIC"
    with pytest.raises(UserError, match=told):
        load(RouteSettings, [], prog="route", description="")
    assert load(RouteSettings, ["--output-topic", "keyed"], prog="route", description="").output_topic == "keyed"
