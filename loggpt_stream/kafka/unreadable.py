"""A record with a header whose name is no text: aiokafka cannot read it, and gives neither it nor its offset."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from aiokafka.errors import KafkaError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiokafka import TopicPartition

_FIND_WITHIN_S: Final = 10.0
_POLL_MS: Final = 500
# What one fetch brought lies before it: at most so many records.
_MOST_RECORDS: Final = 20_000


async def explain_unreadable(
    consumer: Any,  # noqa: ANN401 - aiokafka is untyped
    topic: str,
    positions: Mapping[TopicPartition, int],
    error: UnicodeDecodeError,
) -> str:
    """Return where the record stands that ended a fetch with `error`, and what to do about it.

    positions: of each partition, where its reading stands. The consumer is of no more use after this.
    """
    try:
        async with asyncio.timeout(_FIND_WITHIN_S):
            place = await _find(consumer, positions)
    except (TimeoutError, KafkaError):
        place = None
    if place is None:
        places = ", ".join(f"{where.partition} offset {at}" for where, at in sorted(positions.items()))
        where_it_is = f"in one of these partitions, at this offset or soon after: {places}"
        upto = "what is there up to that offset"
    else:
        where_it_is = f"in partition {place[0]} at offset {place[1]}"
        upto = f"what is there before offset {place[1] + 1}"
    return (
        f"topic {topic} holds a record with a header whose name is not UTF-8 ({error}), which this Kafka client cannot "
        f"read. It stands {where_it_is}. Look at it with kcat (-f '%p %o %h'), mend the shipper, and delete "
        f"{upto} with kafka-delete-records.sh: reading then goes on behind it, and what the daemon skipped is counted "
        "as lost."
    )


async def _find(consumer: Any, positions: Mapping[TopicPartition, int]) -> tuple[int, int] | None:  # noqa: ANN401 - aiokafka is untyped
    """Return partition and offset of the record, read one by one; None where it is not among the next ones."""
    for where, position in sorted(positions.items()):
        consumer.seek(where, position)
        for _ in range(_MOST_RECORDS):
            try:
                found = await consumer.getmany(where, timeout_ms=_POLL_MS, max_records=1)
            except UnicodeDecodeError:
                # What was read one by one moved the position up to it.
                return where.partition, int(await consumer.position(where))
            if not found:
                break
    return None
