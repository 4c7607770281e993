"""The state topic of a partition, written and read back; what is missing, damaged or somebody else's is refused."""

from __future__ import annotations

import random
from functools import partial
from itertools import repeat
from typing import Any

import orjson
import pytest

from loggpt_stream.errors import UserError
from loggpt_stream.kafka import changelog as changelogs
from loggpt_stream.kafka.changelog import BARRIER, Changelog, StateFormats
from loggpt_stream.message import Message

OWNER = "group input"
# In format 1 a number is written as a list of it.
FORMATS = StateFormats(
    from_format_1=lambda change: change | {"number": change["number"][0]},
    to_format_1=lambda change: change | {"number": [change["number"]]},
)


def change(number: int, size: int = 10) -> dict[str, Any]:
    return {"number": number, "noise": random.Random(number).randbytes(size).hex()}


def written(count: int, *, size: int = 10, **limits: Any) -> list[Message]:
    """Return the records of so many changes, with a snapshot wherever one is due."""
    changelog = Changelog(OWNER, FORMATS, **limits)
    messages = []
    for number in range(count):
        messages += changelog.write(change(number, size), snapshot=changelog.snapshot_due)
    return messages


def read(messages: list[Message], owner: str = OWNER) -> list[int]:
    changes = Changelog(owner, FORMATS).read((message.key, message.value) for message in messages)
    return [each["number"] for each in changes]


def compacted(messages: list[Message]) -> list[Message]:
    """Return what is left when the log cleaner has been everywhere: the newest record of each key."""
    newest = {message.key: number for number, message in enumerate(messages)}
    return [message for number, message in enumerate(messages) if newest[message.key] == number]


def test_an_empty_topic_holds_nothing() -> None:
    assert read([]) == []
    assert read([Message(BARRIER, b"x", ())]) == []


def test_changes_come_back_in_order_after_their_snapshot() -> None:
    assert read(written(5)) == [0, 1, 2, 3, 4]


def test_a_snapshot_replaces_all_before_it_compacted_or_not() -> None:
    messages = written(10, most_changes=3)
    assert read(messages) == read(compacted(messages)) == [8, 9]
    assert len(compacted(messages)) == 4


def test_writing_goes_on_after_what_was_read() -> None:
    messages = written(3)
    changelog = Changelog(OWNER, FORMATS)
    changelog.read((message.key, message.value) for message in messages)
    assert not changelog.snapshot_due
    messages += changelog.write(change(3), snapshot=False)
    assert read(messages) == [0, 1, 2, 3]
    messages += changelog.write(change(4), snapshot=True)
    assert read(messages) == [4]


def test_a_large_change_is_written_in_parts_below_the_brokers_limit() -> None:
    messages = written(2, size=changelogs.PART_BYTES * 2)
    assert len(messages) > 4
    assert max(len(message.value) for message in messages) < changelogs.PART_BYTES + 1_000
    assert read(messages) == [0, 1]


def test_a_snapshot_is_due_once_the_changes_are_several_times_as_large() -> None:
    changelog = Changelog(OWNER, FORMATS)
    changelog.write(change(0, 1_000_000), snapshot=changelog.snapshot_due)
    written_bytes, changes = 0, 0
    while not changelog.snapshot_due:
        written_bytes += sum(
            len(message.value) for message in changelog.write(change(changes, 200_000), snapshot=False)
        )
        changes += 1
    assert 4 * 1_000_000 <= written_bytes < 5 * 1_000_000


@pytest.mark.parametrize("lost", [0, 2])
def test_a_missing_change_or_snapshot_is_refused_and_it_is_said_what_to_do(lost: int) -> None:
    messages = written(4)
    del messages[lost]
    with pytest.raises(UserError, match=r"missing.*delete and create the topic again"):
        read(messages)


def test_a_missing_part_is_refused() -> None:
    messages = written(1, size=changelogs.PART_BYTES * 2)
    with pytest.raises(UserError, match="lacks part 1 of"):
        read([messages[0], *messages[2:]])


@pytest.mark.parametrize("damage", ["cut", "flipped", "foreign", "no place"])
def test_a_damaged_record_is_refused(damage: str) -> None:
    messages = written(2)
    key, value = messages[1].key, messages[1].value
    place, _, frame = value.partition(b"\n")
    messages[1] = Message(
        key,
        {
            "cut": place + b"\n" + frame[:-3],
            "flipped": place + b"\n" + frame[:8] + bytes([frame[8] ^ 255]) + frame[9:],
            "foreign": b"hello",
            "no place": b'{"format": 1}\n' + frame,
        }[damage],
        (),
    )
    with pytest.raises(UserError, match=r"the state topic is damaged: .* doctor --create-topics; .* route --create"):
        read(messages)


@pytest.mark.parametrize("said", [b'"state_format":3', b'"format":2,"state_format":2'])
def test_state_that_a_newer_version_wrote_is_refused_with_that_version_and_no_advice_to_delete(said: bytes) -> None:
    messages = written(1)
    head = b'"format":1,"state_format":2,"writer":"0.2.0.dev0"'
    assert head in messages[0].value
    newer = (said if b'"format"' in said else b'"format":1,' + said) + b',"writer":"0.9.1"'
    messages[0] = Message(messages[0].key, messages[0].value.replace(head, newer), ())
    with pytest.raises(
        UserError, match=r"loggpt-stream 0\.9\.1 wrote.*nothing was changed.* run 0\.9\.1 or newer"
    ) as told:
        read(messages)
    assert "delete" not in str(told.value)


def test_what_a_newer_version_left_in_generations_that_were_replaced_is_passed_over() -> None:
    messages = written(3)
    newer = [Message(each.key, each.value.replace(b'"state_format":2', b'"state_format":3'), ()) for each in messages]
    changelog = Changelog(OWNER, FORMATS)
    changelog.read((each.key, each.value) for each in messages)
    assert read([*newer, *changelog.write(change(7), snapshot=True)]) == [7]


def formats_of(messages: list[Message]) -> list[int]:
    return [orjson.loads(each.value.partition(b"\n")[0])["state_format"] for each in messages]


def test_state_stays_in_the_format_that_it_is_in_until_another_one_is_wanted() -> None:
    wanted: list[int | None] = [1]
    changelog = Changelog(OWNER, FORMATS, lambda: wanted[0])
    messages = changelog.write(change(0), snapshot=True)
    wanted[0] = None
    messages += changelog.write(change(1), snapshot=changelog.snapshot_due)
    assert not changelog.format_due
    wanted[0] = 2
    assert changelog.format_due
    messages += changelog.write(change(2), snapshot=changelog.snapshot_due)
    messages += changelog.write(change(3), snapshot=changelog.snapshot_due)
    assert formats_of(messages) == [1, 1, 2, 2]
    assert read(messages[:2]) == [0, 1]
    assert read(messages) == [2, 3]


def test_a_restart_goes_on_in_the_format_of_the_state_unless_another_one_is_wanted() -> None:
    old = Changelog(OWNER, FORMATS, lambda: 1)
    messages = old.write(change(0), snapshot=True)
    for wanted, due in ((None, False), (1, False), (2, True)):
        again = Changelog(OWNER, FORMATS, partial(next, repeat(wanted)))
        again.read((each.key, each.value) for each in messages)
        assert again.format_due == again.snapshot_due == due


def test_a_changed_byte_of_the_content_is_found_by_the_checksum() -> None:
    """Of a block that is stored as it is, nothing else would tell."""
    value = random.Random(1).randbytes(400).decode("latin-1")
    frame = bytearray(changelogs.packed({"noise": value}))
    frame[len(frame) // 2] ^= 1
    messages = Changelog(OWNER, FORMATS).write({"noise": value}, snapshot=True)
    place, _, _ = messages[0].value.partition(b"\n")
    with pytest.raises(UserError, match=r"cannot be read .*checksum"):
        read([Message(messages[0].key, place + b"\n" + bytes(frame), ())])


def test_the_state_of_another_group_or_topic_is_refused() -> None:
    with pytest.raises(UserError, match=r"'group input', and this is 'other input': give each"):
        read(written(1), owner="other input")


def test_a_change_that_does_not_fit_those_before_it_is_refused() -> None:
    def apply(change: dict[str, Any]) -> None:
        raise KeyError(change["number"])

    with pytest.raises(UserError, match="change 0 does not fit those before it"):
        changelogs.applied([change(7)], apply)


def test_a_frame_that_unpacks_to_more_than_is_reasonable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changelogs, "_MOST_VALUE_BYTES", 1_000)
    messages = Changelog(OWNER, FORMATS).write({"zeros": "0" * 100_000}, snapshot=True)
    with pytest.raises(UserError, match="too large"):
        read(messages)
