"""Which versions are in the group, and so in which format its state is written.

In a rolling upgrade, old and new processes are members of one group, and a partition goes from one to the other and
back. So state is written in the newest format that every member reads. Members say their version in their client id,
which the broker tells everybody who may describe the group; version 0.1.0 says none.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError, for_code

from loggpt_stream import __version__
from loggpt_stream.kafka.changelog import STATE_FORMAT
from loggpt_stream.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from loggpt_stream.kafka.settings import KafkaSettings

log = get_logger(__name__)

PROGRAM: Final = "loggpt-stream"
CLIENT_ID: Final = f"{PROGRAM}/{__version__}"
# No heartbeat is sent meanwhile, and nothing is read.
_ANSWER_WITHIN_S: Final = 5.0
# The first version that reads a format.
_SINCE: Final = {2: (0, 2)}


class Member(NamedTuple):
    """A member of the group, as the broker describes it."""

    member_id: str
    client_id: str
    host: str

    @property
    def reads_up_to(self) -> int:
        """Return the newest format that this member reads: 1 where it does not say its version."""
        said = re.match(rf"{PROGRAM}/(\d+)\.(\d+)", self.client_id)
        version = tuple(map(int, said.groups())) if said else (0, 1)
        return max((number for number, since in _SINCE.items() if version >= since), default=1)


class GroupVersions:
    """Decides in which format this member writes state, from one assignment to the next."""

    def __init__(
        self, setting: int | None, settled_after_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """setting: the format that the operator asks for; None: the newest that every member reads.

        settled_after_s: state that is in an older format goes over to a newer one after so long a time in which every
        member could read that: an old process that crashed, or was put back, is given time to return.
        """
        self._setting = setting
        self._settled_after_s = settled_after_s
        self._clock = clock
        self._held_at: int | None = None
        self._settles_at_s: float | None = None

    def state_format(self) -> int | None:
        """Return the format to write as of now; None: the one that the state is in."""
        if self._setting is not None:
            return self._setting
        if self._held_at is not None:
            return self._held_at
        settled = self._settles_at_s is not None and self._clock() >= self._settles_at_s
        return STATE_FORMAT if settled else None

    def learn(self, members: Sequence[Member]) -> None:
        """Take in who is in the group after a rebalance."""
        old = [each for each in members if each.reads_up_to < STATE_FORMAT]
        if old:
            self._held_at, self._settles_at_s = min(each.reads_up_to for each in old), None
            if self._setting is None:
                log.info(
                    "state_format_held_back",
                    state_format=self._held_at,
                    newest=STATE_FORMAT,
                    members=[f"{each.client_id} at {each.host}, {each.member_id}" for each in old],
                    remedy="none in a rolling upgrade; with instance_id, set state_format once all are new",
                )
            return
        if self._held_at is not None:
            self._held_at = None
            log.info("state_format_released", newest=STATE_FORMAT, settled_in_s=self._settled_after_s)
        if self._settles_at_s is None:
            self._settles_at_s = self._clock() + self._settled_after_s

    def nobody_knows(self, error: BaseException) -> None:
        """Note that the broker did not say who is in the group: every state stays in the format that it is in."""
        self._settles_at_s = None
        if self._setting is None:
            log.warning(
                "state_format_unknown",
                error=repr(error),
                remedy="allow Describe on the group, or set state_format to the newest that every member reads",
            )

    async def ask(self, kafka: KafkaSettings, group: str) -> None:
        """Ask the broker who is in the group, for a few seconds at most."""
        try:
            async with asyncio.timeout(_ANSWER_WITHIN_S):
                members = await members_of(kafka, group)
        except (KafkaError, OSError, TimeoutError) as error:
            self.nobody_knows(error)
        else:
            self.learn(members)


async def members_of(kafka: KafkaSettings, group: str) -> list[Member]:
    """Return the members of a group. Raises `KafkaError` or `OSError`."""
    admin = AIOKafkaAdminClient(**kafka.options_of_another())
    try:
        await admin.start()
        return await described_members(admin, group)
    finally:
        await admin.close()


async def described_members(admin: Any, group: str) -> list[Member]:  # noqa: ANN401 - aiokafka is untyped
    """Return the members of a group, asked of a started admin client. Raises `KafkaError`."""
    (answer,) = await admin.describe_consumer_groups([group])
    error_code, _, _, _, _, members, *_ = answer.groups[0]
    if error_code:
        raise for_code(error_code)(f"group {group} cannot be described")
    return [Member(member_id, client_id, host) for member_id, client_id, host, *_ in members]
