"""Why the broker is away is said once for each reason, and not more often than every half minute."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import structlog
from aiokafka.errors import KafkaConnectionError

from loggpt_stream.kafka.outage import Outage
from loggpt_stream.kafka.settings import KafkaSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

ERROR = KafkaConnectionError("Unable to bootstrap from [('broker', 9092)]")


class Told:
    """An outage whose reasons and clock the test decides on."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.reason: str | None = "broker:9092: nobody listens there"
        self.asked = 0
        self.outage = Outage(KafkaSettings(bootstrap="broker:9092"), self.ask, lambda: self.now_s)

    async def ask(self, kafka: KafkaSettings) -> str | None:
        assert kafka.bootstrap == "broker:9092"
        self.asked += 1
        return self.reason

    async def say(self, *, after_s: float = 0.0) -> None:
        self.now_s += after_s
        await self.outage.say(ERROR)


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as events:
        yield events


async def test_the_reason_is_said_at_once_and_not_again_while_it_is_the_same(logged: list[Any]) -> None:
    told = Told()
    await told.say()
    for _ in range(5):
        await told.say(after_s=31)
    assert [(each["event"], each["reason"], each["bootstrap"]) for each in logged] == [
        ("broker_unavailable", "broker:9092: nobody listens there", "broker:9092")
    ]


async def test_another_reason_is_said_but_nobody_asks_more_often_than_every_half_minute(logged: list[Any]) -> None:
    told = Told()
    await told.say()
    told.reason = "broker:9092: the broker refuses the login"
    await told.say(after_s=29)
    assert told.asked == len(logged) == 1
    await told.say(after_s=1)
    assert [each["reason"] for each in logged][1:] == ["broker:9092: the broker refuses the login"]


async def test_a_broker_that_came_back_and_goes_again_is_said_again(logged: list[Any]) -> None:
    told = Told()
    await told.say()
    told.outage.over()
    await told.say(after_s=30)
    assert len(logged) == 2


async def test_where_the_login_works_what_failed_is_explained(logged: list[Any]) -> None:
    told = Told()
    told.reason = None
    await told.say()
    assert "the broker cannot be reached" in logged[0]["reason"]
