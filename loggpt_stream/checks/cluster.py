"""What the doctor finds on the brokers: how many, which version, and what we are allowed to do there."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from aiokafka.errors import (
    ConcurrentTransactions,
    GroupAuthorizationFailedError,
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    NoError,
    NotCoordinatorForGroupError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    for_code,
)
from aiokafka.protocol.admin import ApiVersionRequest
from aiokafka.protocol.group import HeartbeatRequest
from aiokafka.protocol.transaction import AddPartitionsToTxnRequest, EndTxnRequest, InitProducerIdRequest

from loggpt_stream.kafka.finding import Finding, Level
from loggpt_stream.kafka.topics import ANSWER_WITHIN_S, reachable_node

if TYPE_CHECKING:
    from collections.abc import Collection

    from loggpt_stream.daemon.settings import DaemonPlacement
    from loggpt_stream.kafka.topics import Cluster

# Of each request that transactions and the state topic need: its key, and the version that has to be there.
_NEEDED: Final = {
    "Produce": (0, 3),
    "Fetch": (1, 4),
    "FindCoordinator": (10, 1),
    "InitProducerId": (22, 0),
    "AddPartitionsToTxn": (24, 0),
    "EndTxn": (26, 0),
    "DescribeConfigs": (32, 0),
}
# A broker does not say its version, but each release brought requests: (key, version) → the first release with it.
_RELEASES: Final = (
    ((0, 12), "4.0"),
    ((65, 0), "3.0"),
    ((61, 0), "2.8"),
    ((22, 3), "2.5"),
    ((22, 0), "0.11"),
)
_PROBE_TIMEOUT_MS: Final = 10_000
_RETRIED: Final = (
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    NotCoordinatorForGroupError,
    ConcurrentTransactions,
)
_TRANSACTION: Final = 1  # coordinator type of FindCoordinator


def check_brokers(settings: DaemonPlacement, cluster: Cluster) -> Finding:
    """Return the finding on how many brokers there are."""
    found = f"{settings.kafka.bootstrap} answers, {cluster.brokers} broker{'s' * (cluster.brokers > 1)}"
    if cluster.brokers > 1:
        return Finding("brokers", Level.OK, found)
    return Finding(
        "brokers",
        Level.WARNING,
        found,
        "fine for a trial; where alerts matter take three brokers, so that one may fail and nothing is lost",
    )


async def check_version(client: Any) -> Finding:  # noqa: ANN401 - aiokafka is untyped
    """Return the finding on the broker's version: whether all is there that transactions need."""
    answer = await client.send(await reachable_node(client), ApiVersionRequest())
    newest = {key: highest for key, _, highest, *_ in answer.api_versions}
    return judge_version(newest)


def judge_version(newest: dict[int, int]) -> Finding:
    """Return the finding on a broker whose newest version of each request (by its key) is this."""
    release = next((name for (key, version), name in _RELEASES if newest.get(key, -1) >= version), "")
    missing = [name for name, (key, version) in _NEEDED.items() if newest.get(key, -1) < version]
    if missing:
        return Finding(
            "kafka version",
            Level.FAILURE,
            f"this broker does not know {', '.join(missing)}: exactly-once delivery needs transactions",
            "take Apache Kafka 2.5 or newer, or a broker that speaks its transactions",
        )
    if release in ("2.5", "0.11"):
        return Finding(
            "kafka version",
            Level.WARNING,
            f"Kafka {release} or newer, older than {'2.5' if release == '0.11' else '2.8'}; transactions are there",
            "it should work; what is tested is Kafka 4",
        )
    return Finding("kafka version", Level.OK, f"Kafka {release} or newer, transactions are there")


async def check_permissions(client: Any, settings: DaemonPlacement, cluster: Cluster) -> list[Finding]:  # noqa: ANN401 - aiokafka is untyped
    """Return the findings on what we may do: read as the group, and write in transactions.

    The probe opens a transaction over the topics that the daemon writes, and aborts it: no record is written. Raises
    `KafkaError` or `TimeoutError`.
    """
    written = {name for role, name in settings.topics().items() if role != "input topic"}
    there = sorted(written & set(cluster.topics))
    async with asyncio.timeout(ANSWER_WITHIN_S):
        return [await _group(client, settings), await _transaction(client, settings, there)]


async def _group(client: Any, settings: DaemonPlacement) -> Finding:  # noqa: ANN401 - aiokafka is untyped
    try:
        node = await _coordinator(client, 0, settings.group)
        # Who is no member is told so, and changes nothing; who may not be one is told that first.
        answer = await client.send(node, HeartbeatRequest(settings.group, 0, "loggpt-doctor"))
        denied = for_code(answer.error_code) is GroupAuthorizationFailedError
    except GroupAuthorizationFailedError:
        denied = True
    if denied:
        return Finding(
            "permissions",
            Level.FAILURE,
            f"group {settings.group} may not be joined",
            f"kafka-acls.sh: allow Read and Describe on group {settings.group}",
        )
    return Finding("permissions", Level.OK, f"group {settings.group} may be joined")


async def _transaction(client: Any, settings: DaemonPlacement, topics: Collection[str]) -> Finding:  # noqa: ANN401 - aiokafka is untyped
    # Under the prefix of the daemon's own ids: whoever may be the daemon may be the doctor.
    name = f"{settings.group}-{settings.input_topic}-doctor"
    try:
        node = await _coordinator(client, _TRANSACTION, name)
        answer = await _answered(client, node, InitProducerIdRequest(name, _PROBE_TIMEOUT_MS))
    except TransactionalIdAuthorizationFailed:
        return Finding(
            "permissions",
            Level.FAILURE,
            f"transactional id {name} may not be used",
            "kafka-acls.sh: allow Write on transactional ids that begin with the group and the input topic "
            f"(--transactional-id {settings.group}-{settings.input_topic}- --resource-pattern-type prefixed)",
        )
    identity = name, answer.producer_id, answer.producer_epoch
    if not topics:
        return Finding("permissions", Level.OK, "transactions may be used; there is no topic yet to try one on")
    added = await client.send(node, AddPartitionsToTxnRequest(*identity, [(topic, [0]) for topic in topics]))
    errors = {topic: for_code(code) for topic, parts in added.errors for _, code in parts}
    denied = [topic for topic, error in errors.items() if error is TopicAuthorizationFailedError]
    if denied:
        return Finding(
            "permissions",
            Level.FAILURE,
            f"{', '.join(denied)} may not be written",
            f"kafka-acls.sh: allow Write and Describe on topic {' and '.join(denied)}",
        )
    failed = {topic: error.__name__ for topic, error in errors.items() if error is not NoError}
    if failed:
        return Finding(
            "permissions",
            Level.FAILURE,
            f"no transaction could be begun: {', '.join(f'{topic} {error}' for topic, error in failed.items())}",
            "see the broker's log; then run the doctor again",
        )
    await _answered(client, node, EndTxnRequest(*identity, transaction_result=False))
    return Finding("permissions", Level.OK, f"transactions may be used, and {', '.join(topics)} written")


async def _coordinator(client: Any, kind: int, name: str) -> int:  # noqa: ANN401 - aiokafka is untyped
    while True:
        try:
            node: int = await client.coordinator_lookup(kind, name)
        except _RETRIED:
            # The first to ask in a new cluster: the topic that coordinators keep their records in is being made.
            await asyncio.sleep(0.1)
        else:
            return node


async def _answered(client: Any, node: int, request: Any) -> Any:  # noqa: ANN401 - aiokafka is untyped
    """Return the answer to a request, tried again while the coordinator is not ready. Raises what else it says."""
    while True:
        answer = await client.send(node, request)
        error = for_code(answer.error_code)
        if error is NoError:
            return answer
        if error not in _RETRIED:
            raise error
        await asyncio.sleep(0.1)
