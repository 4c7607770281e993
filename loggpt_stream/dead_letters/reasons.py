"""What each reason of a dead letter means, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from loggpt_stream.lines.names import DeadLetterReason


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a reason means, and what whoever runs the shippers or the daemon can do."""

    meaning: str
    remedy: str


# A test checks that none is missing.
REASONS: Final[dict[str, Explanation]] = {
    DeadLetterReason.NULL_VALUE: Explanation(
        "the record has no value: a tombstone, as compacted topics have them, or a producer that sends empty events",
        "find who writes them to the input topic; there is nothing in them to read, so they cannot be put back",
    ),
    DeadLetterReason.NOT_TEXT: Explanation(
        "most bytes are no text: compressed, encrypted, or a binary format such as Avro or Protobuf",
        "let the shipper send text or JSON (a codec set on the record itself, not Kafka's compression, is the usual "
        "cause); records that were binary will fail again",
    ),
    DeadLetterReason.BAD_JSON: Explanation(
        "it begins like JSON and does not parse: cut off by a shipper's size limit, or escaped wrongly",
        "raise the shipper's limit for a record (the detail says where parsing ended); if these are plain lines that "
        "begin like JSON, pin the shape (--shape plain) and put them back",
    ),
    DeadLetterReason.NO_TEXT: Explanation(
        "it is JSON, but no field of it holds the text of a log line: heartbeats, metrics, or a field name of your own",
        "look at an example: keep what is no log out of the input topic, or let the shipper put the line in a field "
        "named message; records that are as they were will fail again",
    ),
    DeadLetterReason.TOO_LONG: Explanation(
        "the record has more than 16 MiB: no log line, but a dump, a core or an attack",
        "find who writes such records, and let the shipper cut lines; what is kept here is cut: it cannot be put back",
    ),
    DeadLetterReason.OTHER_SHAPE: Explanation(
        "the daemon was told to take one shape only (--shape), and this record has another",
        "leave --shape out, or correct it, start the daemon anew, and put these records back",
    ),
    DeadLetterReason.DECODER_FAILED: Explanation(
        "the decoder itself failed on this record: a mistake in this version (the detail names the error)",
        "report it with the record; once a version that reads it is running, put these records back",
    ),
}

UNKNOWN: Final = Explanation(
    "this version does not know the reason: a newer daemon wrote it, or something else writes to this topic",
    "look at the detail, and at who may write to the dead letter topic",
)
