"""Dead letters are as the record came, and always small enough for a topic."""

from __future__ import annotations

import pytest

from loggpt_stream.daemon.partition import Rejected
from loggpt_stream.daemon.publisher import DEAD_LETTER_BYTES, dead_letter
from loggpt_stream.lines.names import DeadLetterReason
from loggpt_stream.lines.record import Record, UndecodableError

ERROR = UndecodableError(DeadLetterReason.BAD_JSON, "cut off")


def letter(
    value: bytes | None, *, key: bytes | None = b"k", headers: tuple[tuple[str, bytes], ...] = (), most: int = 1_000
) -> tuple[bytes, bytes, dict[str, bytes]]:
    record = Record(value, "input", 3, 7, timestamp_s=5.0, key=key, headers=headers)
    made = dead_letter(Rejected(record, ERROR), most)
    ours = 400
    assert len(made.key) + len(made.value) + sum(len(name) + len(text) for name, text in made.headers) <= most + ours
    return made.key, made.value, dict(made.headers)


def test_a_record_that_fits_is_kept_whole() -> None:
    key, value, headers = letter(b"x" * 900, headers=(("a", b"b"),))
    assert (key, value, headers["a"]) == (b"k", b"x" * 900, b"b")
    assert "loggpt_truncated_from_bytes" not in headers


@pytest.mark.parametrize(
    ("value", "key", "headers"),
    [
        (b"x" * 5_000, b"k", ()),
        (b"x", b"k", (("a", b"y" * 5_000),)),
        (b"x" * 5_000, b"k" * 5_000, (("a", b"y" * 5_000),)),
        (None, b"k" * 5_000, ()),
    ],
    ids=["value", "headers", "all", "key"],
)
def test_a_giant_is_cut_wherever_it_is_one_and_says_so(
    value: bytes | None, key: bytes, headers: tuple[tuple[str, bytes], ...]
) -> None:
    cut_key, cut_value, told = letter(value, key=key, headers=headers)
    assert key.startswith(cut_key)
    assert (value or b"").startswith(cut_value)
    assert told["loggpt_truncated_from_bytes"] == str(len(value or b"")).encode()
    assert told["loggpt_offset"] == b"7"


def test_the_largest_dead_letter_fits_into_a_message_of_the_default_limit() -> None:
    assert DEAD_LETTER_BYTES + 400 < 1_048_576
