"""What an owner does with a state that cannot be: it asks whether it is still the owner before it calls it damaged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from aiokafka.errors import ProducerFenced

from loggpt_stream.daemon.partition import Meaning, Partition, Unsaved
from loggpt_stream.daemon.state_formats import STATE_FORMATS
from loggpt_stream.errors import UserError
from loggpt_stream.kafka.changelog import Changelog
from loggpt_stream.kafka.owner import Owner
from loggpt_stream.lines.masks import Masks
from loggpt_stream.lines.rules import SessionRules
from loggpt_stream.model.calibration import Calibration, Judge

if TYPE_CHECKING:
    from collections.abc import Iterable

    from loggpt_stream.kafka.transactions import Bulk, Outgoing


class DamagedLog:
    """A log whose state lacks its snapshot."""

    def __init__(self, *, replaced: bool) -> None:
        self.replaced = replaced
        self.confirmed = 0

    async def take_over(self) -> list[tuple[bytes | None, bytes | None]]:
        changelog = Changelog("group input", STATE_FORMATS)
        changelog.write({}, snapshot=True)
        (change,) = changelog.write({}, snapshot=False)
        return [(change.key, change.value)]

    async def confirm(self) -> None:
        self.confirmed += 1
        if self.replaced:
            raise ProducerFenced

    async def commit(self, outgoing: Iterable[Outgoing | Bulk]) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        """Nothing to let go of."""


async def no_messages(unsaved: Unsaved) -> list[Outgoing]:
    raise NotImplementedError


@pytest.mark.parametrize(("replaced", "raised"), [(True, ProducerFenced), (False, UserError)])
async def test_a_state_that_lacks_something_is_damaged_only_if_nobody_replaced_us(
    replaced: bool, raised: type[Exception]
) -> None:
    log, changelog = DamagedLog(replaced=replaced), Changelog("group input", STATE_FORMATS)
    meaning = Meaning(SessionRules(), Masks(), "meaning", lambda: Judge(Calibration({})))
    owner = Owner(log, changelog, Partition("input", 0, meaning, changelog), no_messages)
    with pytest.raises(raised):
        await owner.take_over()
    assert log.confirmed == 1
