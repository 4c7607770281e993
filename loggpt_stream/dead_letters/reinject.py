"""Dead letters back to the topic they came from, before the router if there is one, exactly once.

What is put back and the mark that it was are one transaction: either both are there or neither. The transactional id is
the group's, so that of two that run at once the earlier one is fenced, and can commit nothing more.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, ProducerFenced

from loggpt_stream.dead_letters.letters import MAX_MARKED, REINJECTED_FROM, Done, mark, read_letters
from loggpt_stream.errors import UserError
from loggpt_stream.kafka.connection import explain, why_not
from loggpt_stream.kafka.transactions import stop_client

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loggpt_stream.daemon.settings import InputSettings
    from loggpt_stream.dead_letters.letters import Letter
    from loggpt_stream.dead_letters.selection import Selection

_BATCH_BYTES: Final = 8_000_000
_MAX_RECORD_BYTES: Final = 2_000_000
_START_WITHIN_S: Final = 60.0
_TRANSACTION_S: Final = 60.0
_ABORT_WITHIN_S: Final = 3.0

ALREADY: Final = "were put back before"
FAILED_AGAIN: Final = "were put back once and failed again: --again puts them back once more"


@dataclass(slots=True)
class ReinjectOutcome:
    """What became of the selected dead letters.

    put_back: how many. passed: how many were passed over, by why. refused: those that cannot be put back, and why.
    """

    put_back: int = 0
    passed: Counter[str] = field(default_factory=Counter)
    refused: list[tuple[Letter, str]] = field(default_factory=list)


async def reinject(settings: InputSettings, selection: Selection, *, again: bool, dry_run: bool) -> ReinjectOutcome:
    """Write the selected dead letters back to the input topic and return what became of each.

    Those that were put back already are passed over, and so are those that failed again, but for `again`. With
    `dry_run` nothing is written. Raises `UserError` where Kafka is not there or refuses, or another run takes over:
    what was committed stays, the rest is still to do.
    """
    if dry_run:
        return await _put_back(None, settings, selection, again=again)
    producer = AIOKafkaProducer(
        **settings.kafka.client_options(),
        transactional_id=f"{settings.group}-{settings.input_topic}-reinject",
        transaction_timeout_ms=round(_TRANSACTION_S * 1000),
        acks="all",
        compression_type="zstd",
        max_request_size=_MAX_RECORD_BYTES,
    )
    try:
        # First: it ends what an earlier run left open, so that what is read then is the whole truth.
        async with asyncio.timeout(_START_WITHIN_S):
            await producer.start()
        return await _put_back(producer, settings, selection, again=again)
    except ProducerFenced as error:
        raise UserError(
            f"another reinject of group {settings.group} has taken over: let it finish. What this one had committed is "
            "not put back again."
        ) from error
    except MessageSizeTooLargeError as error:
        raise UserError(
            f"topic {settings.input_topic} takes no record of that size: raise its max.message.bytes, or leave the "
            "large ones out (--partition, --from-offset, --to-offset). What was committed is not put back again."
        ) from error
    except (KafkaError, TimeoutError) as error:
        why = await why_not(settings.kafka) or f"{settings.kafka.bootstrap}: {explain(error)}"
        raise UserError(
            f"Kafka did not take the dead letters: {why}. Run the command again then: what was committed is not put "
            "back again."
        ) from error
    finally:
        await stop_client(producer)


async def _put_back(producer: Any, settings: InputSettings, selection: Selection, *, again: bool) -> ReinjectOutcome:  # noqa: ANN401 - aiokafka is untyped
    kafka, topic = settings.kafka, settings.dead_letter_topic
    done = Done()
    async for _ in read_letters(kafka, topic, done):
        pass  # Marks lie behind what they speak of: all are read before the first is put back.
    outcome, batch, batch_bytes = ReinjectOutcome(), [], 0
    async for letter in read_letters(kafka, topic, Done()):
        if not selection.takes(letter):
            continue
        passed = ALREADY if done.has(letter) else FAILED_AGAIN if letter.reinjected_from and not again else ""
        why = refusal_of(letter, settings.input_topic)
        if passed:
            outcome.passed[passed] += 1
        elif why:
            outcome.refused.append((letter, why))
        else:
            batch.append(letter)
            batch_bytes += len(letter.value)
        if len(batch) >= MAX_MARKED or batch_bytes >= _BATCH_BYTES:
            await _commit(producer, settings, batch)
            outcome.put_back += len(batch)
            batch, batch_bytes = [], 0
    await _commit(producer, settings, batch)
    outcome.put_back += len(batch)
    return outcome


def refusal_of(letter: Letter, input_topic: str) -> str:
    """Return why a dead letter cannot be put back, "" where it can."""
    if letter.origin is None:
        return "its headers do not say where it came from: the daemon did not write it"
    if letter.routed_from is not None and letter.routed_from.topic != input_topic:
        # Past the router it would keep the key that it came with, and be on another partition than its session.
        return (
            f"it came through loggpt-stream route from topic {letter.routed_from.topic}: name that with --input-topic, "
            "so that it gets the key of its session"
        )
    if letter.routed_from is None and letter.origin.topic != input_topic:
        return f"it came from topic {letter.origin.topic}: name that with --input-topic to put it back there"
    if letter.truncated_from is not None:
        return (
            f"only {len(letter.value):,} of its {letter.truncated_from:,} bytes were kept: fetch the record from "
            f"{letter.origin.topic}, partition {letter.origin.partition}, offset {letter.origin.offset}, if it is "
            "still there"
        )
    if letter.reason == "null_value":
        return "its record has no value, and would fail again"
    return ""


async def _commit(producer: Any, settings: InputSettings, letters: Sequence[Letter]) -> None:  # noqa: ANN401 - aiokafka is untyped
    """Put letters back and mark them as done, in one transaction. Raises `KafkaError` or `TimeoutError`."""
    if producer is None or not letters:
        return
    topic = settings.dead_letter_topic
    async with asyncio.timeout(_TRANSACTION_S):
        partitions = await producer.partitions_for(settings.input_topic)
        await producer.begin_transaction()
        try:
            pending = [await _send(producer, topic, letter, partitions) for letter in letters]
            offsets = defaultdict(list)
            for letter in letters:
                offsets[letter.partition].append(letter.offset)
            for partition, of_partition in offsets.items():
                value, headers = mark(of_partition)
                pending.append(await producer.send(topic, value, partition=partition, headers=headers))
            # A transaction commits even where a record of it failed: each has to be asked.
            await asyncio.gather(*pending)
        except BaseException:
            await _abort(producer)
            raise
        await producer.commit_transaction()


async def _abort(producer: Any) -> None:  # noqa: ANN401 - aiokafka is untyped
    """Undo a transaction, since what is behind an open one waits for it: the daemon's input.

    Where the broker is away it stays open, until the next run starts or it times out.
    """
    # aiokafka asserts that there is something to be undone; a fenced producer has nothing any more.
    with suppress(KafkaError, TimeoutError, AssertionError):
        async with asyncio.timeout(_ABORT_WITHIN_S):
            await producer.abort_transaction()


async def _send(producer: Any, dead_letter_topic: str, letter: Letter, partitions: set[int]) -> Any:  # noqa: ANN401 - aiokafka is untyped
    origin = letter.routed_from or letter.origin
    if origin is None:
        raise ValueError("a letter without origin is refused before")
    return await producer.send(
        origin.topic,
        letter.value,
        key=letter.key,
        # Where it was, the rest of its session is; another producer's hash of the key may say otherwise.
        partition=origin.partition if origin.partition in partitions else None,
        # A line without a time of its own has its record's.
        timestamp_ms=origin.timestamp_ms,
        headers=[
            *letter.headers,
            (REINJECTED_FROM, f"{dead_letter_topic}/{letter.partition}/{letter.offset}".encode()),
        ],
    )
